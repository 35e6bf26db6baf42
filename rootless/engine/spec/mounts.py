"""The mounts that a container asks for: binds, tmpfs, and volumes, which are made ready.

What they are is written in the container's facts (`mounts`) when it is made, so that every later
start has the same. For binds alone `volumes` is not loaded.
"""

from __future__ import annotations

import os

from rootless.engine.request import Mount
from rootless.engine.state.container import find
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rootless.engine.request import RunRequest
    from rootless.engine.state.records import MountRecord

# Class 18: a volume there would hide what the runtime must guard.
_REFUSED = ("/", "/proc", "/sys", "/dev")


def describe(
    request: RunRequest, config: dict[str, Any], storage: str, container_id: str
) -> list[MountRecord]:
    """Return the facts of all mounts that a container asks for; nothing is made.

    Those of the request, then those of --volumes-from, then the volumes of the image. Each has
    type (bind, volume, tmpfs), name, source, target, rw, options, propagation and anonymous.

    Raises:
        RlessError: a target is no place for a volume, or a container of --volumes-from is
            not there.
    """
    facts = [_facts(mount, storage, container_id) for mount in request.mounts]
    taken = {mount["target"] for mount in facts}
    for reference in request.volumes_from:
        for mount in _of_other(reference):
            if mount["target"] not in taken:
                facts.append(mount)
                taken.add(mount["target"])
    for target in config.get("Volumes") or {}:
        normal = _normal(target)
        if normal not in taken:
            facts.append(_facts(Mount("volume", None, target), storage, container_id))
            taken.add(normal)
    return facts


def _normal(target: str) -> str:
    return os.path.normpath("/" + target.lstrip("/"))  # it would keep two of them


def _facts(mount: Mount, storage: str, container_id: str) -> MountRecord:
    target = _normal(mount.target)
    name, source, options = "", mount.source or "", list(mount.options)
    if mount.type == "volume":
        if not mount.target.startswith("/") or target in _REFUSED or target.startswith("/proc/"):
            raise RlessError(f"the image's volume {mount.target!r} is not a place for a volume")
        from rootless.engine.state import volumes

        name = mount.source or volumes.anonymous_name(container_id, target)
        source, is_hosts = volumes.data_of(storage, name)
        if mount.nocopy or is_hosts:
            options.append("nocopy")
    elif mount.type == "bind" and not mount.recursive:
        options.append("bind")
    elif mount.type == "tmpfs":
        if mount.tmpfs_size is not None:
            options.append(f"size={mount.tmpfs_size}")
        if mount.tmpfs_mode is not None:
            options.append(f"mode={mount.tmpfs_mode:o}")
    return {
        "type": mount.type,
        "name": name,
        "source": source,
        "target": target,
        "rw": not mount.read_only,
        "options": options,
        "propagation": mount.propagation or ("rprivate" if mount.type == "bind" else ""),
        "anonymous": mount.type == "volume" and mount.source is None,
    }


def _of_other(reference: str) -> Iterator[MountRecord]:
    """Yield the mounts of `CONTAINER[:ro|rw]`, which are not anonymous for who joins them."""
    name, _, mode = reference.partition(":")
    try:
        other = find(name)
    except RlessError as error:
        raise RlessError(f"--volumes-from: {error.message}", error.hint) from error
    for mount in other.facts["mounts"]:
        if mount["type"] != "tmpfs":
            writable = mount["rw"] and mode != "ro"
            yield {**mount, "rw": writable, "anonymous": False}


def prepare(
    request: RunRequest,
    config: dict[str, Any],
    storage: str,
    container: str,
    known: list[MountRecord] | None = None,
    *,
    first: bool = True,
) -> tuple[list[Mount], list[tuple[str, str]]]:
    """Make the volumes' directories.

    Args:
        container: the container's directory, whose name is its id.
        known: what `describe` said when the container was made.
        first: it was never started: only then volumes are filled.

    Returns:
        Each as a bind mount, and (directory, target) of those to be filled if they are empty.

    Raises:
        RlessError: as `describe`, or the disk is full.
    """
    container_id = os.path.basename(container)
    if known is None:
        known = describe(request, config, storage, container_id)
    own = {_normal(mount.target): mount for mount in request.mounts}
    chosen = [mount for mount in known if mount["type"] == "volume" or mount["target"] not in own]
    if not chosen:
        return [], []
    from rootless.engine.state import volumes

    mounted: list[Mount] = []
    to_fill: list[tuple[str, str]] = []
    with volumes.Locked(storage):
        for facts in chosen:
            wish = own.get(facts["target"])
            if facts["type"] == "volume":
                labels = dict(wish.labels) if wish else {}
                owner = container_id if facts["anonymous"] else None
                volumes.make(storage, facts["name"], labels, {}, owner)
                if first and "nocopy" not in facts["options"]:
                    to_fill.append((facts["source"], facts["target"]))
            mounted.append(_as_bind(facts, wish))
    return mounted, to_fill


def _as_bind(facts: MountRecord, wish: Mount | None) -> Mount:
    bind = Mount(
        "bind",
        facts["source"],
        facts["target"],
        read_only=not facts["rw"],
        options=[option for option in facts["options"] if option not in ("nocopy", "bind")],
    )
    if wish is not None:
        return bind.replace(propagation=wish.propagation, recursive=wish.recursive)
    if facts["type"] == "bind":
        recursive = "bind" not in facts["options"]
        return bind.replace(propagation=facts["propagation"], recursive=recursive)
    return bind
