"""Named and anonymous volumes: directories of ours that outlive, or not, their container.

    <storage>/volumes/<name>/_data      a named volume, made at its first use
    <container>/volumes/<number>        an anonymous one, of the image's VOLUME or `-v /path`

A new volume is filled with what the image has at its target, as Docker does.
"""

from __future__ import annotations

import os

from rootless import paths
from rootless.engine.request import Mount
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.request import RunRequest

# Class 18: a volume there would hide what the runtime must guard.
_REFUSED = ("/", "/proc", "/sys", "/dev")


def prepare(
    request: RunRequest, config: dict[str, Any], storage: str, container: str
) -> tuple[list[Mount], list[tuple[str, str]]]:
    """Make the volumes' directories.

    Returns:
        Each as a bind mount, and (directory, target) of those to be filled.

    Raises:
        RlessError: an image's volume has a target that is no volume's.
    """
    mounted: list[Mount] = []
    to_fill: list[tuple[str, str]] = []
    taken = {mount.target.rstrip("/") for mount in request.mounts}
    anonymous = [
        Mount("volume", None, target)
        for target in (config.get("Volumes") or {})
        if target.rstrip("/") not in taken
    ]
    for mount in request.mounts:
        if mount.type != "volume":
            continue
        if mount.source is None:
            anonymous.append(mount)
            continue
        directory = f"{storage}/volumes/{mount.source}/_data"
        if not os.path.isdir(directory):
            paths.private_dir(f"{storage}/volumes")
            _make(directory)
        if not mount.nocopy and not os.listdir(directory):
            to_fill.append((directory, mount.target))
        mounted.append(_as_bind(mount, directory))
    for number, mount in enumerate(anonymous):
        target = mount.target
        normal = os.path.normpath("/" + target.lstrip("/"))  # it would keep two of them
        if not target.startswith("/") or normal in _REFUSED or normal.startswith("/proc/"):
            raise RlessError(f"the image's volume {target!r} is not a place for a volume")
        directory = f"{container}/volumes/{number}"
        fresh = not os.path.isdir(directory)
        _make(directory)
        if fresh and not mount.nocopy:
            to_fill.append((directory, target))
        mounted.append(_as_bind(mount, directory))
    return mounted, to_fill


def _make(directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    # Whatever the umask: every user of the container may enter; on the host nobody can get here.
    os.chmod(directory, 0o755)  # noqa: S103


def _as_bind(volume: Mount, directory: str) -> Mount:
    bind = Mount("bind", directory, volume.target)
    bind.read_only, bind.options = volume.read_only, volume.options
    bind.propagation, bind.recursive = volume.propagation, volume.recursive
    return bind


def fill(directory: str, root: str, target: str) -> None:
    """Copy what the image has at `target` into an empty volume, with owners and modes.

    Nothing there, or no directory, is no error. Runs in the engine's namespaces; the target is
    looked up beneath the root, so a link in the image leads nowhere else.

    Raises:
        RlessError: the disk is full, or another container interferes.
    """
    from rootless.errors import SyscallError
    from rootless.linux.openat2 import openat2

    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source_fd = openat2(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError:
        return
    finally:
        os.close(root_fd)
    from rootless.rootfs import copy

    target_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copy.apply_open(source_fd, target_fd)
    except OSError as error:
        raise RlessError(
            f"cannot fill the volume at {target}: {error.strerror}",
            "volume-nocopy (-v NAME:PATH:nocopy) leaves it empty",
        ) from error
    except RlessError as error:
        raise error.within(f"cannot fill the volume at {target}") from error
