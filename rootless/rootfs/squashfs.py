"""The root of a squashfs image: mounted by squashfuse, with a union on top for what is written.

The kernel mounts squashfs only for root, so a program serves it (`fuse`): squashfuse_ll, or
squashfuse. It gets the open file and no right at all: it reads what a stranger has made. The
mount is taken off its place as soon as the union lies on it, which then keeps it alone. So it
ends with the union, whatever is killed, and the program with it.

Where there is no FUSE, the image is unpacked by unsquashfs into a cache in the storage, once for
each file; such a directory is then the one layer. A run holds a shared lock on it; who unpacks
another image removes those that nobody has used for two weeks.

Where it runs: as `rootless.rootfs.mount`. Several ranks of a node could share one mount: it would
be given to `mount_layers` in place of the one made here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from rootless import log
from rootless.errors import RlessError, SyscallError, escape
from rootless.linux import caps, ns, process, tree
from rootless.linux import mount as mounts
from rootless.rootfs import DRIVERS, Mounted, check_fatal, fuse, overlay
from rootless.rootfs import mount as mount_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import NoReturn

    from rootless.linux.idmap import IdMap
else:
    import _signal as signal  # as in `fuse`

PROGRAMS = ("squashfuse_ll", "squashfuse")
UNPACKER = "unsquashfs"
_UNUSED_SECONDS = 14 * 24 * 3600.0
_UNPACKER_RIGHTS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"]


def mount(
    path: str,
    offset: int,
    identity: Sequence[int],
    workspace: str,
    idmap: IdMap,
    cache: str,
    *,
    begun: Begun | None = None,
    driver: str | None = None,
    volatile: bool = False,
) -> Mounted:
    """Mount the image in a file, with a writable layer of the container, at `workspace`/merged.

    Args:
        path: absolute. offset: bytes before the image in it.
        identity: [device, inode, size, mtime in ns] that the file had when it was looked at.
        cache: where images are unpacked if there is no FUSE; a private directory.
        begun: its mount, where that was made ahead.
        driver: of the union on top; as for `rootless.rootfs.mount`.

    Raises:
        RlessError: the file is gone or another one, or nothing can mount or unpack it.
    """
    lower = show(path, offset, identity, workspace, idmap, cache, begun)
    try:
        mounted = _union(lower.path, workspace, idmap, driver, volatile)
    except BaseException:
        lower.close()
        raise
    mounted.layers = [path]
    mounted.lock_fd = lower.lock_fd
    if lower.why:
        mounted.why.insert(0, lower.why)
    if lower.pid:
        # Taken off its place, it lives as long as what lies on it.
        mounts.umount(lower.path)
        mounted.helper_pids.append(lower.pid)
        mounted.options = f"{lower.program} offset={offset}; {mounted.options}"
    return mounted


def _union(lower: str, workspace: str, idmap: IdMap, driver: str | None, volatile: bool) -> Mounted:
    """Mount a writable layer over a directory; in memory where the storage can hold none.

    A home on a network file system is no place for the layer, and copying the whole image there
    the last thing that a job wants. Only for a container that is removed at its end.
    """
    if driver is not None or not volatile:
        return mount_layers([lower], workspace, idmap, driver=driver, volatile=volatile)
    refused: list[str] = []
    for name in DRIVERS[:2]:
        for in_memory in (False, True):
            try:
                mounted = _mount_with(name, lower, workspace, in_memory)
            except RlessError as error:
                check_fatal(error, ())
                place = "memory" if in_memory else "the storage"
                refused.append(f"{name} with its layer in {place}: {error.message}")
                continue
            mounted.why = refused
            return mounted
    mounted = mount_layers([lower], workspace, idmap, driver="copy", volatile=volatile)
    mounted.why = refused + mounted.why
    return mounted


def _mount_with(name: str, lower: str, workspace: str, in_memory: bool) -> Mounted:
    mounted = Mounted(f"{workspace}/merged", name)
    place = f"{workspace}/memory" if in_memory else workspace
    os.makedirs(mounted.path, 0o700, exist_ok=True)
    if in_memory:
        os.makedirs(place, 0o700, exist_ok=True)
        mounts.mount("tmpfs", place, "tmpfs", mounts.MS_NODEV, "mode=700")
    try:
        overlay.prepare(place, lower, mount_point=False)
        if name == "overlay":
            mounted.options = overlay.mount([lower], place, mounted.path, volatile=not in_memory)
        else:
            from rootless.rootfs import fuse_overlayfs

            mounted.options, pid = fuse_overlayfs.mount(
                [lower], place, mounted.path, volatile=not in_memory
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

    __slots__ = ("_reason", "_server", "fd")

    def __init__(self, fd: int, offset: int, program: str | None) -> None:
        """Begin the program.

        Args:
            fd: of the file; ours from now on.
            program: see `find_server`.
        """
        self.fd = fd
        self._server: fuse.Server | None = None
        self._reason: RlessError | None = None
        try:
            self._server = _begin(fd, offset, program)
        except RlessError as error:
            self._reason = error

    def mount(self) -> None:
        """Make the mount, and let the program go on."""
        if self._server is not None:
            try:
                self._server.mount(mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID)
            except RlessError as error:
                self._server, self._reason = None, error

    def attach(self, target: str) -> tuple[str, int]:
        """Show the mount, read-only, at `target`; return (what serves it, pid).

        Raises:
            RlessError: there is no such program or no FUSE, or it ended; what it said.
        """
        if self._server is None:
            assert self._reason is not None
            raise self._reason
        self._server.attach(target)
        return self._server.name, self._server.pid


def show(
    path: str,
    offset: int,
    identity: Sequence[int],
    workspace: str,
    idmap: IdMap,
    cache: str,
    begun: Begun | None = None,
) -> Lower:
    """Mount the image alone at `workspace`/image, or unpack it; the arguments are of `mount`."""
    if begun is None:
        begun = Begun(_open(path, identity), offset, find_server())
        begun.mount()
    lower = Lower(f"{workspace}/image")
    try:
        os.makedirs(lower.path, 0o700, exist_ok=True)
        try:
            lower.program, lower.pid = begun.attach(lower.path)
        except RlessError as reason:
            program = fuse.find_program(UNPACKER)
            if program is None:
                raise RlessError(
                    f"cannot mount {escape(path)}: {reason.message}; and {UNPACKER} is not"
                    " installed",
                    "ask the administrator for squashfuse and /dev/fuse, or for squashfs-tools",
                ) from reason
            source = _Packed(begun.fd, path, offset, reason)
            name = f"{idmap.key}-{'.'.join(map(str, (*identity, offset)))}"
            lower.path, lower.lock_fd = _acquire(cache, name, program, source)
            lower.why = f"unpacked to {lower.path}, as {reason.message}"
        return lower
    finally:
        os.close(begun.fd)


def _open(path: str, identity: Sequence[int]) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RlessError(
            f"cannot open the image {escape(path)}: {error.strerror}",
            "it must be where it was when the container was created",
        ) from error
    found = os.fstat(fd)
    if [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns] != list(identity):
        os.close(fd)
        raise RlessError(
            f"the image {escape(path)} is another file than when the container was created",
            "what the container has written does not fit it: make a new container",
        )
    return fd


def find_server() -> str | None:
    """Return the program that serves images, where ids are mapped: it must not be ours."""
    return next(filter(None, map(fuse.find_program, PROGRAMS)), None)


def _begin(fd: int, offset: int, program: str | None) -> fuse.Server:
    if program is None:
        raise RlessError(f"{PROGRAMS[0]} is not installed")
    arguments = ["-f"]
    if offset:
        arguments += ["-o", f"offset={offset}"]
    arguments.append(f"/proc/self/fd/{fd}")
    log_fd = os.memfd_create("squashfuse.log")
    return fuse.Server(program, arguments, log_fd, privileged=False, keep_fd=fd)


# -- without FUSE --------------------------------------------------------------------------------


class _Packed:
    """An image that is to be unpacked: its open file, and why it is."""

    __slots__ = ("fd", "offset", "path", "reason")

    def __init__(self, fd: int, path: str, offset: int, reason: RlessError) -> None:
        self.fd = fd
        self.path = path
        self.offset = offset
        self.reason = reason


def _acquire(cache: str, name: str, program: str, source: _Packed) -> tuple[str, int]:
    """Return the directory of an unpacked image, made if absent, and a lock on it."""
    os.makedirs(cache, 0o700, exist_ok=True)
    while True:
        try:
            lock_fd = os.open(f"{cache}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            log.warn(
                f"{escape(source.path)} is unpacked to {cache} once, as it cannot be mounted: "
                f"{source.reason.message}"
            )
            _make(cache, name, program, source)
            continue
        _lock(lock_fd, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.fstat(lock_fd), os.stat(f"{cache}/{name}")):
                os.utime(lock_fd)
                return f"{cache}/{name}/root", lock_fd
        except FileNotFoundError:
            pass
        os.close(lock_fd)  # it was removed between the two calls


def _lock(fd: int, kind: int) -> None:
    try:
        fcntl.flock(fd, kind)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            raise
        # A file system without locks: what was used within two weeks is not removed anyway.


def _make(cache: str, name: str, program: str, source: _Packed) -> None:
    """Unpack, one process at a time; whoever waited for the lock finds it done."""
    cache_fd = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(cache_fd, fcntl.LOCK_EX)
        if os.path.exists(f"{cache}/{name}"):
            return
        _remove_unused(cache_fd, name.partition("-")[0])
        temporary = f".{name}"
        os.mkdir(temporary, 0o700, dir_fd=cache_fd)
        try:
            _unpack(program, source, f"{cache}/{temporary}")
            os.rename(temporary, name, src_dir_fd=cache_fd, dst_dir_fd=cache_fd)
        except BaseException:
            tree.remove_tree(cache_fd, temporary)
            raise
    finally:
        os.close(cache_fd)


def _remove_unused(cache_fd: int, key: str) -> None:
    """Remove what nobody has used for long, and one whose making was cut short."""
    for name in os.listdir(cache_fd):
        if not name.startswith((f"{key}-", f".{key}-")):
            continue  # a record; or of another map: the owners of its files have no ids here
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=cache_fd)
        try:
            fresh = time.time() - os.fstat(fd).st_mtime < _UNUSED_SECONDS
            if name.startswith(".") or not fresh:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                hidden = f".{name.lstrip('.')}"
                os.rename(name, hidden, src_dir_fd=cache_fd, dst_dir_fd=cache_fd)
                tree.remove_tree(cache_fd, hidden)
        except (OSError, RlessError):
            pass  # a container uses it
        finally:
            os.close(fd)


def _unpack(program: str, source: _Packed, directory: str) -> None:
    """Run unsquashfs, which may write in `directory` only and has no network.

    Raises:
        RlessError: it failed; what it said last.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_unpacker(program, source, directory, writer)
    os.close(writer)
    code, said = process.outcome(pid, reader)
    # 2: an owner, an attribute or a device that nobody here can make.
    if code not in (0, 2) or not os.path.isdir(f"{directory}/root"):
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with {code}"
        place = os.statvfs(directory)
        if not place.f_bavail or b"No space left" in said:
            raise SyscallError(f"unpack {escape(source.path)} to {directory}", errno.ENOSPC)
        raise RlessError(f"cannot unpack {escape(source.path)}: {UNPACKER}: {escape(why)[:300]}")


def _become_unpacker(program: str, source: _Packed, directory: str, writer: int) -> NoReturn:
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(writer, 2)
        process.close_on_exec_from(3)
        os.set_inheritable(source.fd, True)
        os.umask(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _become_root()
        ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWNET | ns.CLONE_NEWIPC)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount(directory, directory, None, mounts.MS_BIND)
        root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        mounts.mount_setattr(root_fd, set_=mounts.MOUNT_ATTR_RDONLY, recursive=True)
        place_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.mount_setattr(place_fd, clear=mounts.MOUNT_ATTR_RDONLY)
        os.chdir(directory)
        fuse.keep_only(caps.mask(_UNPACKER_RIGHTS))
        argv = [UNPACKER, "-n", "-q", "-f", "-d", "root"]
        if source.offset:
            argv += ["-o", str(source.offset)]
        os.execve(program, [*argv, f"/proc/self/fd/{source.fd}"], process.HELPER_ENVIRONMENT)
    except BaseException as error:
        try:
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(127)


def _become_root() -> None:
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # 0 is not mapped: the owners are all the same one
                raise
