"""Layers -> one mounted directory (step 1b).

Theory of operation. A container's workspace is a private directory on the storage file system.
Three drivers can show the image's layers there as one writable directory, `workspace/merged`:

    overlay         the kernel's overlayfs in the user namespace: one system call, no process
    fuse-overlayfs  the same as a program: where the kernel or the file system refuses
    copy            the layers copied one over the other: works anywhere, costs time and space

Which one works depends on the kernel, its configuration, the LSM and the file system below; no list
of these is ever complete. So `mount` tries the drivers, uses the first that works, and keeps the
errors of the others in `Mounted.why`. The image `host:` is made of the host's own directories
(`host.py`), and `--rootfs DIR` uses a directory as it is.

Where it runs: in the engine's user and mount namespace, with all capabilities there, but perhaps
with a uid other than 0. The mounts vanish with that namespace in any case.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import RlessError
from rootless.linux import mount as mounts
from rootless.rootfs import overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypedDict

    from rootless.linux.idmap import IdMap

    class MountedRecord(TypedDict):
        """What `Mounted.describe` gives."""

        path: str
        driver: str
        options: str
        layers: list[str]
        why: list[str]


_OVERLAYS = ("overlay", "fuse-overlayfs")
DRIVERS = (*_OVERLAYS, "copy")


class Mounted:
    """Say what was mounted, how, and why so.

    Attributes:
        path: the directory that is the container's root.
        driver: one of DRIVERS, "directory" for `--rootfs DIR`, "host" for `host:`, "tmpfs".
        options: the mount options of the kernel or the program, with the paths of the directories.
        layers: the lower directories, bottom to top.
        why: one line for each driver that was tried and refused, and each thing done otherwise.
        helper_pids: children of the caller that serve the mount; `unmount` waits for them.
        lock_fds: held for as long as the mount is used, so that a cached lower layer stays, and
            no other container has the writable layer.
    """

    __slots__ = ("driver", "helper_pids", "layers", "lock_fds", "options", "path", "why")

    def __init__(
        self, path: str, driver: str, options: str = "", layers: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.driver = driver
        self.options = options
        self.layers = list(layers)
        self.why: list[str] = []
        self.helper_pids: list[int] = []
        self.lock_fds: list[int] = []

    def describe(self) -> MountedRecord:
        """Return the facts as plain data, for `--explain=json` and the container's state."""
        return {
            "path": self.path,
            "driver": self.driver,
            "options": self.options,
            "layers": self.layers,
            "why": self.why,
        }


def mount(
    layers: Sequence[str],
    workspace: str,
    idmap: IdMap,
    *,
    driver: str | None = None,
    volatile: bool = False,
    whiteouts: str = "overlay",
    place: str | None = None,
) -> Mounted:
    """Mount `layers` with a writable layer of the container at `workspace`/merged.

    Args:
        layers: absolute directories, bottom to top, owned as this namespace shall see them.
        workspace: absolute, private, on a file system with room; is reused by a restart.
        driver: use this one only; a restarted container must keep the driver of its first
            start, because each stores changes in its own form.
        volatile: never sync the writable layer; for containers that are removed at their end.
        whiteouts: how the layers say that a file of a lower layer is gone: "overlay" (character
            devices 0:0, user.overlay.opaque) or "aufs" (the `.wh.` files of the archive).
        place: absolute: a directory of the user's for the writable layer, which stays there.

    Raises:
        RlessError: no driver works, or the disk is full, or a layer is missing.
    """
    if driver is not None and driver not in DRIVERS:
        raise RlessError(f"unknown rootfs driver {driver}", f"use one of {', '.join(DRIVERS)}")
    if place is not None:
        lock_fd = _lock(place)
        try:
            mounted = _try(_OVERLAYS, layers, workspace, idmap, volatile, whiteouts, place)
        except BaseException:
            os.close(lock_fd)
            raise
        mounted.lock_fds = [lock_fd]
        return mounted
    drivers = DRIVERS if driver is None else (driver,)
    return _try(drivers, layers, workspace, idmap, volatile, whiteouts, None)


def _lock(place: str) -> int:
    """Lock the writable layer of a user's: the kernel does not keep two containers off it."""
    from rootless.linux import locks

    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if locks.lock(fd, wait=False) is False:
        os.close(fd)
        raise RlessError(
            f"{place} is the writable layer of a container that runs", "give each one of its own"
        )
    return fd


def _try(
    drivers: Sequence[str],
    layers: Sequence[str],
    workspace: str,
    idmap: IdMap,
    volatile: bool,
    whiteouts: str,
    place: str | None,
) -> Mounted:
    """Mount with the first driver that works."""
    refused: list[str] = []
    for name in drivers:
        try:
            mounted = _mount_with(name, layers, workspace, idmap, volatile, whiteouts, place)
        except RlessError as error:
            check_fatal(error, layers)
            refused.append(f"{name}: {error.message}")
            continue
        mounted.why = refused + mounted.why
        return mounted
    raise RlessError(
        f"cannot mount the root filesystem: {'; '.join(refused)}",
        "`rless doctor` tells what this host is missing",
    )


def _mount_with(
    name: str,
    layers: Sequence[str],
    workspace: str,
    idmap: IdMap,
    volatile: bool,
    whiteouts: str,
    place: str | None = None,
) -> Mounted:
    mounted = Mounted(f"{workspace}/merged", name, layers=layers)
    if name == "overlay":
        if whiteouts != "overlay":
            raise RlessError("the layers mark deleted files by .wh. names, unknown to the kernel")
        writable = _writable(workspace, layers, place)
        volatile = volatile and place is None
        mounted.options = overlay.mount(layers, writable, mounted.path, volatile=volatile)
    elif name == "fuse-overlayfs":
        from rootless.rootfs import fuse_overlayfs

        writable = _writable(workspace, layers, place)
        mounted.options, pid = fuse_overlayfs.mount(
            layers, writable, mounted.path, volatile=volatile and place is None
        )
        mounted.helper_pids.append(pid)
    else:
        from rootless.rootfs import copy

        copy.fill(layers, workspace)
    return mounted


def _writable(workspace: str, layers: Sequence[str], place: str | None) -> str:
    """Make the directories of an overlay; return where the writable ones are."""
    like = layers[-1] if layers else None
    if place is None:
        overlay.prepare(workspace, like)
        return workspace
    os.makedirs(f"{workspace}/merged", 0o700, exist_ok=True)
    overlay.prepare(place, like, mount_point=False)
    return place


def check_fatal(error: RlessError, layers: Sequence[str]) -> None:
    """Raise what no other driver can cure: a full disk, a missing layer."""
    if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
        raise RlessError(
            error.message,
            "free some space on the storage's file system, or set RLESS_STORAGE to another",
        ) from error
    for layer in layers:
        if not os.path.isdir(layer):
            raise RlessError(
                f"a layer of the image is missing: {layer}", "pull the image again"
            ) from error


def mount_directory(
    path: str,
    workspace: str,
    idmap: IdMap,
    *,
    above: Sequence[str] = (),
    driver: str | None = None,
    volatile: bool = False,
    place: str | None = None,
) -> Mounted:
    """Use the directory of `--rootfs` as the root: itself, or with `:O` an overlay on top.

    Args:
        path: `DIR`, written to directly, or `DIR:O`, kept as it is.
        above: for `DIR:O`, directories between it and the writable layer.
        driver: for `DIR:O` use this one only.
        place: for `DIR:O`, as for `mount`.

    Raises:
        RlessError: it is no directory, or no driver can mount over it.
    """
    over = path.endswith(":O")
    directory = os.path.abspath(path[:-2] if over else path)
    if not os.path.isdir(directory):
        why = "is not a directory" if os.path.lexists(directory) else "does not exist"
        raise RlessError(f"--rootfs: {directory} {why}")
    if over:
        layers = [directory, *above]
        return mount(layers, workspace, idmap, driver=driver, volatile=volatile, place=place)
    return Mounted(directory, "directory", layers=[directory])


def mount_over(directory: str, workspace: str, idmap: IdMap) -> Mounted:
    """Mount a writable view of a directory: what is written stays in `workspace`.

    A directory is never copied: it may be of any size.

    Args:
        workspace: absolute, in a private directory; what an earlier start has left goes.

    Raises:
        RlessError: it is no directory, or no driver can put an overlay on it.
    """
    if not os.path.isdir(directory):
        raise RlessError(f"cannot put an overlay (O) on {directory}: it is not a directory")
    if os.path.lexists(workspace):
        remove_workspace(workspace)
    os.makedirs(workspace, 0o700)
    refused = []
    for driver in _OVERLAYS:
        try:
            return _mount_with(driver, [directory], workspace, idmap, True, "overlay")
        except RlessError as error:
            check_fatal(error, [directory])
            refused.append(f"{driver}: {error.message}")
    inside = f"{workspace}/".startswith(f"{directory.rstrip('/')}/")
    raise RlessError(
        f"cannot put an overlay (O) on {directory}: {'; '.join(refused)}",
        "the storage lies in it: set RLESS_STORAGE to another place" if inside else None,
    )


def unmount(mounted: Mounted) -> None:
    """Detach what `mount` mounted in this namespace, and wait for its helper programs.

    A namespace that was cloned from this one may use the mounts still; they end with it.
    """
    if mounted.driver not in ("copy", "directory"):
        try:
            mounts.umount(mounted.path)
        except RlessError:
            pass  # it is unmounted already
    if mounted.helper_pids:
        from rootless.rootfs import fuse

        for pid in mounted.helper_pids:
            fuse.wait(pid)
        mounted.helper_pids = []
    for fd in mounted.lock_fds:
        os.close(fd)
    mounted.lock_fds = []


def remove_workspace(workspace: str) -> None:
    """Delete a container's directory, whatever the container has left in it.

    Root of the container may have made trees of mode 000, of foreign ids, and deeper than a
    path can name. A mount that is still there is detached first: what it shows is not ours
    to delete.

    Where it runs: in a user namespace with the container's map.
    """
    from rootless.linux import tree

    try:
        while True:
            mounts.umount(f"{workspace}/merged")
    except RlessError:
        pass
    parent, name = os.path.split(workspace)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tree.remove_tree(parent_fd, name)
    finally:
        os.close(parent_fd)


def choose(directory: str, idmap: IdMap) -> list[dict[str, Any]]:
    """Try each driver on the file system of `directory`; return what they said, best first.

    For `rless doctor` and `rless info`: `mount` itself doesn't ask, it tries. Each answer has
    "driver", "works" and "why".

    Where it runs: as `mount`; give it to `idmap.call_in_userns`.
    """
    answers: list[dict[str, Any]] = []
    for name in DRIVERS:
        workspace = f"{directory}/.probe-{name}-{os.getpid()}"
        answer: dict[str, Any] = {"driver": name, "works": True, "why": ""}
        mounted = None
        try:
            os.makedirs(f"{workspace}/layer", 0o700)
            mounted = mount([f"{workspace}/layer"], workspace, idmap, driver=name)
            answer["why"] = f"mounted with {mounted.options}" if mounted.options else "copied"
        except (RlessError, OSError) as error:
            answer.update(works=False, why=str(error))
        finally:
            if mounted is not None:
                unmount(mounted)
            if os.path.isdir(workspace):
                remove_workspace(workspace)
        answers.append(answer)
    return answers
