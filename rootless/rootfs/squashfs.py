"""The root of a squashfs image: mounted by squashfuse, with a writable union on top.

The kernel mounts squashfs only for root, so a program serves it (`fuse`): squashfuse_ll, or
squashfuse. It gets the open file and no rights, because it reads a file from a stranger. As soon as
the union uses the mount, the mount is detached from its place, and only the union keeps it. So it
ends with the union, whichever process is killed, and the program ends too.

If there is no FUSE, the image is unpacked (`unpacked`), and that directory is the only layer.

Where it runs: as `rootless.rootfs.mount`. Several ranks of a node could share one mount: it would
be given to `mount_layers` in place of the one made here.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape
from rootless.linux import mount as mounts
from rootless.linux import programs
from rootless.linux.process import HELPER_ENVIRONMENT
from rootless.rootfs import DRIVERS, Mounted, check_fatal, fuse, overlay
from rootless.rootfs import mount as mount_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import IdMap

PROGRAMS = ("squashfuse_ll", "squashfuse")
# By itself glibc gives the memory of each block of an image back to the kernel, and takes it again
# for the next: half of the program's page faults in a start. The largest block has 1 MiB.
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "8388608", "MALLOC_MMAP_THRESHOLD_": "4194304"}


def mount(
    path: str,
    offset: int,
    identity: Sequence[int],
    workspace: str,
    idmap: IdMap,
    cache: str,
    *,
    begun: Begun | None = None,
    ahead: bytes = b"",
    above: Sequence[str] = (),
    driver: str | None = None,
    volatile: bool = False,
    place: str | None = None,
) -> Mounted:
    """Mount the image in a file, with a writable layer of the container, at `workspace`/merged.

    Args:
        path: absolute. offset: bytes before the image in it.
        identity: [device, inode, size, mtime in ns] that the file had when it was looked at.
        cache: where images are unpacked if there is no FUSE; a private directory.
        begun: its mount, where that was made ahead.
        ahead: what will be wanted of it (`rootfs.prefetch`), where that was not told before.
        above: directories between the image and the writable layer.
        driver, place: of the union on top; as for `rootless.rootfs.mount`.

    Raises:
        RlessError: the file is gone or another one, or nothing can mount or unpack it.
    """
    lower = show(path, offset, identity, workspace, idmap, cache, begun, ahead)
    layers = [lower.path, *above]
    try:
        if place is not None:
            mounted = mount_layers(layers, workspace, idmap, driver=driver, place=place)
        else:
            mounted = _union(layers, workspace, idmap, driver, volatile)
    except BaseException:
        lower.close()
        raise
    mounted.layers = [path]
    if lower.lock_fd >= 0:
        mounted.lock_fds.append(lower.lock_fd)
    if lower.why:
        mounted.why.insert(0, lower.why)
    if lower.pid:
        # Taken off its place, it lives as long as what lies on it.
        mounts.umount(lower.path)
        mounted.helper_pids.append(lower.pid)
        mounted.options = f"{lower.program} offset={offset}; {mounted.options}"
    return mounted


def _union(
    layers: Sequence[str], workspace: str, idmap: IdMap, driver: str | None, volatile: bool
) -> Mounted:
    """Mount a writable layer over directories; in memory where the storage can hold none.

    A home on a network file system is no place for the layer, and copying the whole image there
    the last thing that a job wants. Only for a container that is removed at its end.
    """
    if driver is not None or not volatile:
        return mount_layers(layers, workspace, idmap, driver=driver, volatile=volatile)
    refused: list[str] = []
    for name in DRIVERS[:2]:
        for in_memory in (False, True):
            try:
                mounted = _mount_with(name, layers, workspace, in_memory)
            except RlessError as error:
                check_fatal(error, ())
                place = "memory" if in_memory else "the storage"
                refused.append(f"{name} with its layer in {place}: {error.message}")
                continue
            mounted.why = refused
            return mounted
    mounted = mount_layers(layers, workspace, idmap, driver="copy", volatile=volatile)
    mounted.why = refused + mounted.why
    return mounted


def _mount_with(name: str, layers: Sequence[str], workspace: str, in_memory: bool) -> Mounted:
    mounted = Mounted(f"{workspace}/merged", name)
    place = f"{workspace}/memory" if in_memory else workspace
    os.makedirs(mounted.path, 0o700, exist_ok=True)
    if in_memory:
        os.makedirs(place, 0o700, exist_ok=True)
        mounts.mount("tmpfs", place, "tmpfs", mounts.MS_NODEV, "mode=700")
    try:
        overlay.prepare(place, layers[-1], mount_point=False)
        if name == "overlay":
            mounted.options = overlay.mount(layers, place, mounted.path, volatile=not in_memory)
        else:
            from rootless.rootfs import fuse_overlayfs

            mounted.options, pid = fuse_overlayfs.mount(
                layers, place, mounted.path, volatile=not in_memory
            )
            mounted.helper_pids.append(pid)
    finally:
        if in_memory:
            mounts.umount(place)  # taken off its place, it lives as long as the union
    return mounted


class Lower:
    """A directory with the files of an image.

    Attributes:
        path: of the directory.
        program, pid: what serves it; "", 0: nothing, it is unpacked.
        lock_fd: keeps what is unpacked; -1: there is no lock.
        why: it is unpacked.
    """

    __slots__ = ("lock_fd", "path", "pid", "program", "why")

    def __init__(self, path: str) -> None:
        self.path = path
        self.program = ""
        self.pid = 0
        self.lock_fd = -1
        self.why = ""

    def close(self) -> None:
        """Take it away."""
        if self.pid:
            mounts.umount(self.path)
            fuse.wait(self.pid)
        elif self.lock_fd >= 0:
            os.close(self.lock_fd)


class Begun:
    """An open image, and the program that serves it, or why there is none.

    The program is begun when the image is open. When ids are mapped, the mount can be made; where
    it is to be seen, and whether it is wanted at all, is told later still.
    """

    __slots__ = ("_server", "fd")

    def __init__(self, fd: int, offset: int, program: str | None, holder: int = -1) -> None:
        """Begin the program.

        Args:
            fd: of the file; ours from now on.
            program: see `find_server`.
            holder: as for `fuse.Server`.

        Raises:
            RlessError: the installation is broken.
        """
        self.fd = fd
        self._server: fuse.Server | None = None
        if program is not None:
            try:
                self._server = _begin(fd, offset, program, holder)
            except BaseException:
                self.close()
                raise

    def mount(self) -> None:
        """Have the mount made, if that can be done beside the caller: the ids are mapped."""
        if self._server is not None:
            self._server.mount()

    def prefetch(self, words: bytes) -> None:
        """Have the image asked for what will be wanted (`rootfs.prefetch`); wait for nothing."""
        if self._server is not None:
            self._server.prefetch(words)

    def attach(self, target: str) -> tuple[str, int]:
        """Show the mount, read-only, at `target`; return (what serves it, pid).

        Raises:
            RlessError: there is no such program or no FUSE, or it ended; what it said.
        """
        server, self._server = self._server, None
        if server is None:
            raise RlessError(f"{PROGRAMS[0]} is not installed")
        server.attach(target)
        return server.name, server.pid

    def close(self) -> None:
        """Close the image, and end the program, unless its mount is shown."""
        if self._server is not None:
            self._server.end()
            self._server = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def show(
    path: str,
    offset: int,
    identity: Sequence[int],
    workspace: str,
    idmap: IdMap,
    cache: str,
    begun: Begun | None = None,
    ahead: bytes = b"",
) -> Lower:
    """Mount the image alone at `workspace`/image, or unpack it; the arguments are of `mount`."""
    if begun is None:
        begun = Begun(_open(path, identity), offset, find_server())
    lower = Lower(f"{workspace}/image")
    try:
        os.makedirs(lower.path, 0o700, exist_ok=True)
        try:
            if ahead:
                begun.prefetch(ahead)
            lower.program, lower.pid = begun.attach(lower.path)
        except RlessError as reason:
            from rootless.rootfs import unpacked

            source = unpacked.Packed(begun.fd, path, offset, reason)
            name = f"{idmap.key}-{'.'.join(map(str, (*identity, offset)))}"
            lower.path, lower.lock_fd = unpacked.acquire(cache, name, source)
            lower.why = f"unpacked to {lower.path}, as {reason.message}"
        return lower
    finally:
        begun.close()


def _open(path: str, identity: Sequence[int]) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RlessError(
            f"cannot open the image {escape(path)}: {error.strerror}",
            "it must be in the same place as when the container was created",
        ) from error
    found = os.fstat(fd)
    if [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns] != list(identity):
        os.close(fd)
        raise RlessError(
            f"the image {escape(path)} is a different file than when the container was created",
            "the container's changes do not fit it: make a new container",
        )
    return fd


def find_server() -> str | None:
    """Return the program that serves images, where ids are mapped: it must not be ours."""
    return next(filter(None, map(programs.find, PROGRAMS)), None)


def _begin(fd: int, offset: int, program: str, holder: int) -> fuse.Server:
    arguments = ["-f"]
    if offset:
        arguments += ["-o", f"offset={offset}"]
    arguments.append(f"/proc/self/fd/{fd}")
    log_fd = os.memfd_create("squashfuse.log")
    flags = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID
    return fuse.Server(
        program,
        arguments,
        log_fd,
        flags=flags,
        environment={**HELPER_ENVIRONMENT, **_MEMORY},
        privileged=False,
        keep_fd=fd,
        holder=holder,
    )
