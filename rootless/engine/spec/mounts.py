"""The mounts of a container: -v, --mount and --tmpfs, --volumes-from, and the image's volumes.

They are decided once, when the container is made. container.json keeps them, so that every later
start has the same ones. `make_volumes` makes the volumes on disk; after that a volume is bound like
any other directory (`spec.generate`). A request with nothing but binds does not load `volumes`.
"""

from __future__ import annotations

import os

from rootless.engine.request import Mount
from rootless.engine.state.container import find
from rootless.errors import RlessError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from rootless.engine.idmap_policy import Owner
    from rootless.engine.request import Files
    from rootless.engine.state.records import MountRecord
    from rootless.linux.idmap import IdMap

_OVERLAY = "O"  # among the options of a record
# Class 18: a volume there would hide what the runtime must guard.
_REFUSED = ("/", "/proc", "/sys", "/dev")


# -- what they are -------------------------------------------------------------------------------


def decide(files: Files, config: dict[str, Any], storage: str, container_id: str) -> list[Mount]:
    """Return all mounts of a container that is about to be made; nothing is made here.

    Those of the request, then those of --volumes-from, then the volumes of the image. A volume
    has its name and its directory as the source.

    Args:
        config: the image's.

    Raises:
        RlessError: a target is no place for a volume, or a container of --volumes-from is
            not there.
    """
    found = [_decided(mount, storage, container_id) for mount in files.mounts]
    taken = {mount.target for mount in found}
    of_others = (mount for name in files.volumes_from for mount in _of_other(name))
    of_image = (
        _decided(Mount("volume", None, target), storage, container_id)
        for target in config.get("Volumes") or {}
        if _normal(target) not in taken
    )
    for source in (of_others, of_image):
        for mount in source:
            if mount.target not in taken:
                found.append(mount)
                taken.add(mount.target)
    return found


def caller_in(files: Files, storage: str, default: Owner | None) -> Owner | None:
    """Return whom of a container the caller should be; None: the application's user.

    The first volume that has been used decides. Else a directory of the host is to be the
    application's own.

    Args:
        default: where there is neither.
    """
    for mount in (*files.mounts, *(one for name in files.volumes_from for one in _of_other(name))):
        name = mount.name or mount.source
        if mount.type == "bind":
            default = None
        elif mount.type == "volume" and name:
            from rootless.engine.state import volumes

            owner = volumes.caller_in(storage, name)
            if owner is not None:
                return owner
            if volumes.data_of(storage, name)[1]:
                default = None
    return default


def _normal(target: str) -> str:
    return os.path.normpath("/" + target.lstrip("/"))  # it would keep two of them


def _decided(mount: Mount, storage: str, container_id: str) -> Mount:
    target = _normal(mount.target)
    if mount.type != "volume":
        return mount.replace(target=target)
    if not mount.target.startswith("/") or target in _REFUSED or target.startswith("/proc/"):
        raise RlessError(f"the image's volume {mount.target!r} is not a place for a volume")
    from rootless.engine.state import volumes

    name = mount.source or volumes.anonymous_name(container_id, target)
    source, is_hosts = volumes.data_of(storage, name)
    return mount.replace(
        target=target,
        name=name,
        source=source,
        nocopy=mount.nocopy or is_hosts or bool(mount.subpath),
        anonymous=mount.source is None,
    )


def _of_other(reference: str) -> Iterator[Mount]:
    """Yield the mounts of `CONTAINER[:ro|rw]`, which are not anonymous for who joins them."""
    name, _, mode = reference.partition(":")
    try:
        other = find(name)
    except RlessError as error:
        raise RlessError(f"--volumes-from: {error.message}", error.hint) from error
    for record in other.facts["mounts"]:
        if record["type"] != "tmpfs":
            mount = _from_record(record)
            yield mount.replace(read_only=mount.read_only or mode == "ro", anonymous=False)


def to_records(mounts: Iterable[Mount]) -> list[MountRecord]:
    """Return decided mounts as container.json has them, and `inspect` shows them."""
    return [_to_record(mount) for mount in mounts]


def _to_record(mount: Mount) -> MountRecord:
    record: MountRecord = {
        "type": mount.type,
        "name": mount.name,
        "source": mount.source or "",
        "target": mount.target,
        "rw": not mount.read_only,
        "options": _shown_options(mount),
        "propagation": mount.propagation or ("rprivate" if mount.type == "bind" else ""),
        "anonymous": mount.anonymous,
    }
    if mount.subpath:
        record["subpath"] = mount.subpath
    return record


def _shown_options(mount: Mount) -> list[str]:
    options = list(mount.options)
    if mount.overlay:
        options.append(_OVERLAY)
    if mount.type == "volume" and mount.nocopy:
        options.append("nocopy")
    if mount.type == "bind" and not mount.recursive:
        options.append("bind")
    if mount.tmpfs_size is not None:
        options.append(f"size={mount.tmpfs_size}")
    if mount.tmpfs_mode is not None:
        options.append(f"mode={mount.tmpfs_mode:o}")
    return options


def of_container(records: Iterable[MountRecord], files: Files) -> list[Mount]:
    """Return the mounts that were decided when a container was made.

    Args:
        files: of its request, which says more of those that were asked for.
    """
    asked = {_normal(mount.target): mount for mount in files.mounts}
    found = []
    for record in records:
        mount = _from_record(record)
        if mount.target in asked:
            decided = {name: getattr(mount, name) for name in _DECIDED}
            mount = asked[mount.target].replace(**decided)
        found.append(mount)
    return found


_DECIDED = ("anonymous", "name", "nocopy", "source", "target")


def _from_record(record: MountRecord) -> Mount:
    options = record["options"]
    return Mount(
        record["type"],
        record["source"] or None,
        record["target"],
        name=record["name"],
        anonymous=record["anonymous"],
        read_only=not record["rw"],
        options=[option for option in options if option not in ("nocopy", "bind", _OVERLAY)],
        overlay=_OVERLAY in options,
        nocopy="nocopy" in options,
        recursive="bind" not in options,
        propagation=record["propagation"] or None,
        subpath=record.get("subpath", ""),
    )


# -- what they need on disk ----------------------------------------------------------------------


def check_sources(mounts: Iterable[Mount]) -> list[Mount]:
    """Check the host paths of binds; return those that are missing, and that `make_source` makes.

    Raises:
        RlessError: a source is missing and shall not be made.
    """
    missing = []
    for mount in mounts:
        if mount.type != "bind" or os.path.exists(mount.source or ""):
            continue
        if not mount.create_source:
            raise RlessError(
                f"bind source path does not exist: {mount.source}",
                "make it, or use -v, or bind-create-src=true",
            )
        missing.append(mount)
    return missing


def make_source(mount: Mount) -> list[str]:
    """Make the host path of a bind, as -v does; return the directories made, the deepest first.

    Raises:
        RlessError: it cannot be made.
    """
    path = mount.source or ""
    made = []
    while not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(mount.source or "", exist_ok=True)
    except OSError as error:
        remove_made(made)
        raise RlessError(f"cannot make {mount.source}: {error.strerror}") from error
    return made


def remove_made(directories: Iterable[str]) -> None:
    """Remove what `make_source` has made, as far as it is empty: the start was refused."""
    for path in directories:
        try:
            os.rmdir(path)
        except OSError:
            pass  # somebody uses it


def check_targets(made: Iterable[Mount], mounts: Sequence[Mount], root: str) -> None:
    """Refuse to mount a directory that was made just now onto a file.

    The runtime refuses that too, but then the directory would stay, and each later start of what
    was meant as a file would fail.

    Args:
        mounts: all that there are.
        root: the mounted root file system.

    Raises:
        RlessError: it is one.
    """
    from rootless.linux.openat2 import openat2
    from rootless.runtime.inside.mounts import refuse_mismatch

    for mount in made:
        source = mount.source or ""
        opened: list[int] = []
        try:
            place, path = _place(mount, mounts, root)
            opened.append(os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.append(openat2(opened[0], path, os.O_PATH))
            opened.append(os.open(source, os.O_PATH | os.O_CLOEXEC))
            refuse_mismatch(source, opened[2], opened[1])
        except (OSError, SyscallError):
            continue  # there is no target yet
        except RlessError as error:
            raise error.within(f"cannot mount {mount.target}") from error
        finally:
            for fd in opened:
                os.close(fd)


def _place(mount: Mount, mounts: Sequence[Mount], root: str) -> tuple[str, str]:
    """Return the directory that a target lies in: another mount's, or the root; and the rest."""
    over = [one for one in mounts if mount.target.startswith(f"{one.target}/")]
    if not over:
        return root, mount.target
    nearest = max(over, key=lambda one: len(one.target))
    # Of a part of a volume nothing is looked up by its path; the runtime refuses by itself.
    return "" if nearest.subpath else nearest.source or "", mount.target[len(nearest.target) :]


def make_volumes(
    mounts: Sequence[Mount], storage: str, container_id: str, idmap: IdMap
) -> dict[str, Owner]:
    """Make what is missing of the volumes; the container's facts have to be on disk already.

    They keep others from removing the volumes.

    Args:
        idmap: the container's; a volume that was never used takes it.

    Returns:
        Name -> whom the caller is in that volume.

    Raises:
        RlessError: the disk is full, or another container interferes.
    """
    wanted = [mount for mount in mounts if mount.type == "volume"]
    if not wanted:
        return {}
    from rootless.engine.state import volumes
    from rootless.image.store.ownership import own_ids

    caller = own_ids(idmap)
    # Of several containers that come with other maps, the first one decides.
    alone = any(volumes.caller_in(storage, mount.name) is None for mount in wanted)
    found = {}
    with volumes.Locked(storage, alone):
        for mount in wanted:
            owner = container_id if mount.anonymous else None
            labels = dict(mount.labels)
            found[mount.name] = volumes.make(storage, mount.name, labels, {}, owner, caller)
    return {name: taken for name, taken in found.items() if taken is not None}


def to_fill(mounts: Iterable[Mount]) -> list[tuple[str, str]]:
    """Return (directory, target) of the volumes that take the image's files if they are empty."""
    return [
        (mount.source or "", mount.target)
        for mount in mounts
        if mount.type == "volume" and not mount.nocopy
    ]
