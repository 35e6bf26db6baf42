"""Volumes: directories in the storage that may outlive the containers that use them.

    <storage>/volumes/<name>/_data          what a container sees
    <storage>/volumes/<name>/volume.json    created, labels, driver, options, anonymous, container,
                                            caller
    <storage>/volumes/<name>/filling        locked while it is filled; empty, unless that was killed
    <storage>/volumes/.lock                 held shared to make volumes, exclusively to remove one
    <storage>/volumes/.removed-<random>     a volume that is being deleted: out of sight at once

A named volume is made at its first use. An anonymous one (`-v /path`, VOLUME of an image) has a
name of 64 hexadecimal digits, computed from the container's id and the target, so that every start
of a container has the same ones. A new volume is filled with what the image has at its target, as
Docker does.

The numbers of its files' owners are the same in every container: a volume keeps the id map of the
first one. That map is known by whom it makes the caller (`engine.idmap_policy`).

The users of a volume are not counted. They are read from `mounts` in the facts of the containers,
which are on disk before their volumes are made.
"""

from __future__ import annotations

import os
import time

from rootless import paths
from rootless.engine.state.container import Container, all_ids, load, read_json, unlink, write_json
from rootless.errors import CONFLICT, NOT_FOUND, RlessError
from rootless.linux import locks

try:
    from _blake2 import blake2b  # hashlib costs 3 ms
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    from rootless.engine.idmap_policy import Owner
    from rootless.engine.state.records import VolumeRecord

_LOCK = ".lock"
_FILLING = "filling"
_REMOVED = ".removed-"
# How Docker marks one that nobody named; `volume prune` takes these.
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


# -- of a container ------------------------------------------------------------------------------


def anonymous_name(container_id: str, target: str) -> str:
    """Return the name of a volume that nobody named."""
    text = f"{container_id}\0{target}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=32).hexdigest()


def data_of(storage: str, name: str) -> tuple[str, bool]:
    """Return what a container sees of a volume, which need not be there yet.

    Returns:
        A directory, and whether it is one of the host's (`--opt device=`), which is never filled.
    """
    options = _read_record(storage, name).get("options") or {}
    device: str | None = options.get("device")
    return device or f"{storage}/volumes/{name}/_data", bool(device)


def caller_in(storage: str, name: str, record: VolumeRecord | None = None) -> Owner | None:
    """Return whom of a container a volume's map makes the caller; None: it has no map yet.

    One that was used before this was recorded has the map of the oldest container that has it.

    Args:
        record: of the volume, where it was read already.
    """
    caller = (_read_record(storage, name) if record is None else record).get("caller")
    if caller is not None:
        return caller[0], caller[1]
    try:
        if not os.listdir(data_of(storage, name)[0]):
            return None
    except OSError:
        return None
    having = [container for one in users().get(name, ()) if (container := load(one))]
    if not having:
        return None
    from rootless.image.store.ownership import own_ids

    return own_ids(min(having, key=lambda one: one.facts["created"]).idmap())


def remove_anonymous(container: Container, going: Collection[str] = ()) -> None:
    """Remove the anonymous volumes of a container that nobody else uses.

    For `rm -v`, and for a container that is removed at its end. Those that it has from another one,
    by --volumes-from, go with their last user, as Docker's.

    Args:
        going: ids of containers that are removed at the same time: they use nothing any more.
    """
    storage = paths.storage_root()
    request = container.facts["request"]
    named = {mount.get("source") for mount in request.get("mounts", ())}
    for mount in container.facts.get("mounts") or ():
        name = mount["name"]
        if mount["anonymous"] or (
            request.get("volumes_from")
            and mount["type"] == "volume"
            and name not in named
            and _read_record(storage, name).get("anonymous")
        ):
            _remove(storage, name, {container.id, *going})


def fill(directory: str, root: str, target: str, user: Owner) -> None:
    """Copy what the image has at `target` into an empty volume, with owners and modes.

    Where there is nothing, or no directory, a new volume is given to the application's user, as
    Podman does. Runs in the engine's namespaces; the target is looked up beneath the root, so a
    link in the image leads nowhere else. Of several that start with a new volume at once, one
    fills it and the others wait: none sees half of it.

    Args:
        user: the application's.

    Raises:
        RlessError: the disk is full, or another container interferes.
    """
    from rootless.errors import SyscallError
    from rootless.linux.openat2 import openat2

    mark_fd = _lock_filling(os.path.dirname(directory))
    try:
        if os.fstat(mark_fd).st_size:
            _clear(directory)  # what a killed one began
        elif os.listdir(directory):
            return
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            source_fd = openat2(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError:
            _give(directory, user)
            return
        finally:
            os.close(root_fd)
        from rootless.rootfs import copy

        os.write(mark_fd, b"1")
        target_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        copy.apply_open(source_fd, target_fd)
        os.ftruncate(mark_fd, 0)
    except OSError as error:
        raise RlessError(
            f"cannot fill the volume at {target}: {error.strerror}",
            "volume-nocopy (-v NAME:PATH:nocopy) leaves it empty",
        ) from error
    except RlessError as error:
        raise error.within(f"cannot fill the volume at {target}") from error
    finally:
        os.close(mark_fd)


def _give(directory: str, user: Owner) -> None:
    """Give an empty volume to a user, if it is still as it was made: the caller's."""
    if os.stat(directory).st_uid == os.geteuid() != user[0]:
        try:
            os.chown(directory, *user)
        except OSError:
            pass  # with a single id there is no other user


def _lock_filling(volume: str) -> int:
    """Return the volume's mark, locked; what it holds tells of a fill that was killed."""
    fd = locks.open_lock(f"{volume}/{_FILLING}")
    locks.lock(fd)
    return fd


def _clear(directory: str) -> None:
    from rootless.linux.tree import remove_tree

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            remove_tree(fd, name)
    finally:
        os.close(fd)


# -- by themselves -------------------------------------------------------------------------------


class Volume:
    """A volume on disk.

    Attributes:
        caller: UID:GID that the caller is in its map; "": it was never used.
        path: what a container sees: `_data`, or the host's directory of `--opt device=`.
        created: seconds since the epoch.
    """

    __slots__ = ("anonymous", "caller", "created", "labels", "name", "options", "path")

    def __init__(self, storage: str, name: str, record: VolumeRecord) -> None:
        directory = f"{storage}/volumes/{name}"
        self.name = name
        self.labels: dict[str, str] = record.get("labels") or {}
        self.options: dict[str, str] = record.get("options") or {}
        self.anonymous = bool(record.get("anonymous"))
        caller = record.get("caller")
        self.caller = f"{caller[0]}:{caller[1]}" if caller else ""
        self.path: str = self.options.get("device") or f"{directory}/_data"
        # One of before there were records has its directory's time.
        self.created: float = record.get("created") or os.stat(directory).st_mtime


def create(name: str | None, labels: dict[str, str], options: dict[str, str]) -> str:
    """Make a volume and return its name; one that is there stays as it is, as Docker does.

    Args:
        name: None: one of 64 hexadecimal digits.
        options: of Docker's local driver, checked: device, with type=none and o=bind.
    """
    storage = paths.storage_root()
    made = name or os.urandom(32).hex()
    with Locked(storage):
        make(storage, made, labels, options, "" if name is None else None)
    return made


def make(
    storage: str,
    name: str,
    labels: dict[str, str],
    options: dict[str, str],
    owner: str | None,
    caller: Owner | None = None,
) -> Owner | None:
    """Make what is missing of a volume; of several at once the first one writes its record.

    Args:
        owner: of an anonymous volume: the container's id, or "".
        caller: whom of the container the caller is; a volume without a map takes that one.

    Returns:
        Whom the caller is in the volume; None: it has no map yet.
    """
    directory = f"{storage}/volumes/{name}"
    data = f"{directory}/_data"
    if os.path.isdir(data):
        return _take_map(storage, name, caller)
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory)
            # Whatever the umask: every user of the container may enter; on the host nobody can
            # get here.
            os.chmod(directory, 0o755)  # noqa: S103
            if owner is not None:
                labels = {**labels, ANONYMOUS_LABEL: ""}
            record: VolumeRecord = {
                "created": time.time(),
                "driver": "local",
                "labels": labels,
                "options": options,
                "anonymous": owner is not None,
                "container": owner or None,
            }
            if caller is not None:
                record["caller"] = caller
            write_json(_record_path(storage, name), record)
            _record_event("create", name)
        os.mkdir(data)
        os.chmod(data, 0o755)  # noqa: S103
    except FileExistsError:
        return make(storage, name, labels, options, owner, caller)  # another one is at it
    except OSError as error:
        raise RlessError(
            f"cannot make the volume {name}: {error.strerror}", paths.hint_of(error.errno)
        ) from error
    return _take_map(storage, name, caller)


def _take_map(storage: str, name: str, caller: Owner | None) -> Owner | None:
    """Record whom the caller is in a volume that is there, if that is not known."""
    record = _read_record(storage, name)
    known = caller_in(storage, name, record) or caller
    if known is not None and "caller" not in record:
        record["caller"] = known
        write_json(_record_path(storage, name), record)
    return known


def get(name: str) -> Volume:
    """Return the volume of that name.

    Raises:
        RlessError: there is none.
    """
    storage = paths.storage_root()
    if not is_name(name) or not os.path.isdir(f"{storage}/volumes/{name}"):
        raise RlessError(
            f"no such volume: {name}", "`rless volume ls` lists them", 1, kind=NOT_FOUND
        )
    return Volume(storage, name, _read_record(storage, name))


def all_volumes() -> list[Volume]:
    """Return all volumes, by name."""
    found = []
    for name in all_names():
        try:
            found.append(get(name))
        except (RlessError, OSError):
            continue  # removed just now
    return found


def all_names() -> list[str]:
    """Return the names of all volumes, in order."""
    try:
        names = os.listdir(f"{paths.storage_root()}/volumes")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if is_name(name))


def is_name(text: str) -> bool:
    """Tell whether `text` can be a volume's name, by Docker's grammar; never a path."""
    return (
        1 < len(text) < 256
        and text.isascii()
        and text[0].isalnum()
        and all(char.isalnum() or char in "_.-" for char in text)
    )


def inspect_volume(name: str) -> dict[str, Any]:
    """Return a volume in Docker's shape.

    Raises:
        RlessError: there is none.
    """
    from rootless.engine import timestamps

    volume = get(name)
    return {
        "CreatedAt": timestamps.show(int(volume.created)),
        "Driver": "local",
        "Labels": volume.labels or None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
        **({"Status": {"Caller": volume.caller}} if volume.caller else {}),
    }


def users() -> dict[str, list[str]]:
    """Return volume -> ids of the containers that have it, ended ones too."""
    found: dict[str, list[str]] = {}
    for container_id in all_ids():
        container = load(container_id)
        for mount in (container.facts.get("mounts") or ()) if container else ():
            if mount["type"] == "volume":
                found.setdefault(mount["name"], []).append(container_id)
    return found


def remove(name: str) -> None:
    """Remove a volume and all that is in it.

    Raises:
        RlessError: there is none, or a container has it.
    """
    get(name)
    storage = paths.storage_root()
    in_use = _remove(storage, name)
    if in_use:
        shown = []
        for container_id in in_use:
            container = load(container_id)
            shown.append(container.facts["name"] if container else container_id[:12])
        raise RlessError(
            f"cannot remove volume {name}: volume is in use by {', '.join(sorted(shown))}",
            "remove the containers first",
            1,
            kind=CONFLICT,
        )


def _remove(storage: str, name: str, going: Collection[str] = ()) -> list[str]:
    """Delete a volume unless a container has it, but those that go; return which ones do."""
    hidden = f"{storage}/volumes/{_REMOVED}{os.urandom(8).hex()}"
    with Locked(storage, alone=True):
        others = [
            user for user in users().get(name, ()) if user not in going and not _is_going(user)
        ]
        if others:
            return others
        try:
            # Out of sight whole: half of a volume is never seen, whenever this is killed.
            os.rename(f"{storage}/volumes/{name}", hidden)
        except FileNotFoundError:
            return []
    _delete(storage, [os.path.basename(hidden)])
    _record_event("destroy", name)
    return []


def _is_going(container_id: str) -> bool:
    """Tell whether a container is being removed at this moment, or has been."""
    container = load(container_id)
    return container is None or bool(container.run_record().get("removing"))


def _delete(storage: str, names: Iterable[str]) -> None:
    from rootless.image.store.ownership import delete_any

    for name in names:
        delete_any(f"{storage}/volumes", name)


def clear_leftovers() -> None:
    """Finish removals that were killed."""
    storage = paths.storage_root()
    try:
        names = os.listdir(f"{storage}/volumes")
    except FileNotFoundError:
        return
    _delete(storage, [name for name in names if name.startswith(_REMOVED)])
    for name in names:
        if name.endswith(".tmp"):
            unlink(f"{storage}/volumes/{name}")


def unused(every: bool) -> list[Volume]:
    """Return what `prune` would remove: anonymous volumes that no container has.

    Args:
        every: named ones, too.
    """
    used = users()
    return [
        volume
        for volume in all_volumes()
        if volume.name not in used and (every or volume.anonymous)
    ]


def _record_path(storage: str, name: str) -> str:
    return f"{storage}/volumes/{name}/volume.json"


def _read_record(storage: str, name: str) -> VolumeRecord:
    record: VolumeRecord | None = read_json(_record_path(storage, name))
    return record or {}


def _record_event(action: str, name: str) -> None:
    from rootless.engine.state import events

    events.record(action, "volume", name, driver="local")


class Locked:
    """Holds the lock of the volumes.

    A container's facts are on disk before its volumes are made under the shared lock. A removal
    reads the facts under the exclusive lock, so it never removes a volume that a container is
    about to use.
    """

    def __init__(self, storage: str, alone: bool = False) -> None:
        self._path = f"{storage}/volumes"
        self._shared = not alone
        self._fd = -1

    def __enter__(self) -> None:
        directory = paths.checked(self._path)
        try:
            self._fd = locks.open_lock(f"{directory}/{_LOCK}")
        except OSError as error:
            raise RlessError(
                f"cannot write to {directory}: {error.strerror}", paths.hint_of(error.errno)
            ) from error
        # On a file system without locks, the removal and the use of one volume at one moment are
        # the caller's own doing.
        locks.lock(self._fd, shared=self._shared)

    def __exit__(self, *details: object) -> None:
        os.close(self._fd)
