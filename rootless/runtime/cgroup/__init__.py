"""Step 4, the control group: where the container is put, if the host lets us.

`choose` finds a manager: `cgroupfs` where a part of the unified hierarchy is delegated to the
caller, `none` elsewhere. A systemd manager (transient scopes on the user bus) has its place
beside them. No delegation is no error, unless a limit was asked for.
"""

from __future__ import annotations

from rootless.errors import RlessError
from rootless.runtime.cgroup import cgroupfs
from rootless.runtime.cgroup.none import NoCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Spec
    from rootless.runtime.cgroup.base import Cgroup


def choose(spec: Spec, container_id: str, hand_down: bool = False) -> Cgroup:
    """Return the cgroup for a container, made; the manager is chosen by trying.

    Args:
        hand_down: the caller's own processes may be moved, if that lets the kernel account.

    Raises:
        RlessError: `linux.resources` asks for a limit; limits are not built yet.
    """
    linux = spec.get("linux", {})
    limits = {
        name: value
        for name, value in linux.get("resources", {}).items()
        # Device rules are for the device controller, which a user never has: the nodes that
        # are not there are the rule. An empty object asks for nothing.
        if name != "devices" and value
    }
    if limits:
        raise RlessError(
            f"linux.resources.{next(iter(limits))}: limits are not built yet",
            "leave the limit out",
        )
    delegated = cgroupfs.find_delegated()
    if isinstance(delegated, str):
        return NoCgroup(delegated)
    if hand_down:
        delegated.hand_down()
    try:
        path = linux.get("cgroupsPath", "").strip("/")
        return delegated.make(f"rless-{container_id}" if path in ("", ".", "..") else path)
    except OSError as error:
        return NoCgroup(f"{error.filename}: {error.strerror}")
