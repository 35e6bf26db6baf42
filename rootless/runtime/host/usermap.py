"""The user namespace of a config that names none, or names one without mappings.

A user without root can make no other namespace without one. As crun does, the runtime then makes
one: its root is the invoking user, and all subordinate ids follow. runc refuses such a config.
Source: user_namespaces(7), subuid(5).
"""

from __future__ import annotations

import os

from rootless.linux import programs, subid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import IdMapping, Linux


def complete(linux: Linux) -> None:
    """Add the namespace, if there is none, and its mappings; there are none yet."""
    namespaces = linux.setdefault("namespaces", [])
    user = next((entry for entry in namespaces if entry["type"] == "user"), None)
    if user is None:
        if os.geteuid() == 0:
            return  # root already, of the host or of a user namespace
        user = {"type": "user"}
        namespaces.append(user)
    if user.get("path"):
        return
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    extents: dict[str, list[IdMapping]] = {
        kind: [{"containerID": 0, "hostID": number, "size": 1}] for kind, number in own.items()
    }
    ranges = {kind: subid.ranges(kind) for kind in own}
    if all(ranges.values()) and all(map(programs.find_privileged, ("newuidmap", "newgidmap"))):
        for kind, found in ranges.items():
            first = 1
            for start, count in found:
                extents[kind].append({"containerID": first, "hostID": start, "size": count})
                first += count
    linux["uidMappings"], linux["gidMappings"] = extents["uid"], extents["gid"]
