"""The driver `copy`: the layers copied one over the other into a plain directory.

This is the last resort. It needs no feature of the kernel, but the time and the space of the whole
image for each container (less if the file system shares blocks between files). It keeps everything
that an overlay would show: owners, modes, times, xattrs, hard links, holes.

Theory of operation. The layers are walked in order, with one source and one target directory open
at a time: down by name, up by `..`, so that neither depth nor the length of a path matters. The
target may be a volume that a hostile container is changing. So `..` is accepted only if it is the
directory that we came from: a directory that was moved upwards would lead out of the volume. Every
name is opened without following links, including those of files copied earlier. Whiteouts are read
in both forms, the overlay one (character device 0:0, user.overlay.opaque) and the archive one
(.wh.NAME, .wh..wh..opq).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux import tree
from rootless.linux.call import shown
from rootless.linux.openat2 import BENEATH, openat2
from rootless.rootfs import overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DONE = "copied"
FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks (btrfs, xfs, bcachefs)
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
OPAQUE_XATTRS = ("user.overlay.opaque", "user.fuseoverlayfs.opaque")
_OUR_XATTRS = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_can_clone = True


def fill(layers: Sequence[str], workspace: str) -> None:
    """Copy `layers` (bottom to top) into `workspace`/merged, unless an earlier start did.

    A copy that was cut short is begun anew.

    Raises:
        SyscallError: ENOSPC, EDQUOT, or another failure of the file system.
    """
    done = f"{workspace}/{_DONE}"
    if os.path.exists(done):
        return
    call = "copy the layers"
    try:
        workspace_fd = os.open(workspace, _DIRECTORY)
        try:
            if os.path.lexists(f"{workspace}/merged"):
                tree.remove_tree(workspace_fd, "merged")
            os.mkdir("merged", 0o700, dir_fd=workspace_fd)
            if not layers:
                overlay.look_like(f"{workspace}/merged", None)
            for layer in layers:
                call = f"copy {layer}"
                apply(layer, f"{workspace}/merged")
            os.mkdir(_DONE, 0o700, dir_fd=workspace_fd)
        finally:
            os.close(workspace_fd)
    except OSError as error:
        raise SyscallError(call, error.errno or 0) from error


def apply(layer: str, target: str) -> None:
    """Lay one layer over what is in the directory `target`.

    Raises:
        OSError: the file system refused something.
    """
    apply_open(os.open(layer, _DIRECTORY), os.open(target, _DIRECTORY))


def apply_open(source_fd: int, target_fd: int) -> None:
    """Do as `apply` with directories that are open already; both descriptors are closed."""
    _Walk(source_fd, target_fd).run()


class _Frame:
    """One directory on the way down: what is still to do there.

    Attributes:
        places: which directories the source and the target are.
    """

    __slots__ = ("name", "places", "status", "todo", "xattrs")

    def __init__(self, name: bytes, status: os.stat_result) -> None:
        self.name = name
        self.status = status
        self.places: tuple[tuple[int, int], ...] = ()
        self.todo: list[bytes] = []
        self.xattrs: list[tuple[str, bytes]] = []


class _Walk:
    """The copy of one layer; `source_fd` and `target_fd` are the current directories."""

    __slots__ = ("frames", "links", "root_fd", "source_fd", "target_fd")

    def __init__(self, source_fd: int, target_fd: int) -> None:
        self.source_fd = source_fd
        self.target_fd = target_fd
        self.root_fd = os.dup(target_fd)
        self.frames: list[_Frame] = []
        # (device, inode) of files with several names -> the first one's path in the target.
        self.links: dict[tuple[int, int], bytes] = {}

    def run(self) -> None:
        try:
            self._enter(_Frame(b"", os.fstat(self.source_fd)))
            while self.frames:
                frame = self.frames[-1]
                if frame.todo:
                    self._descend(frame.todo.pop())
                else:
                    self._leave()
        finally:
            os.close(self.source_fd)
            os.close(self.target_fd)
            os.close(self.root_fd)

    def _descend(self, name: bytes) -> None:
        """Make the directory `name` in the target where it isn't, and go there."""
        status = os.stat(name, dir_fd=self.source_fd, follow_symlinks=False)
        if not self._is_directory(name):
            self._remove(name)
            os.mkdir(name, 0o700, dir_fd=self.target_fd)
        self._move(name)
        self._enter(_Frame(name, status))

    def _move(self, name: bytes) -> None:
        source_fd = os.open(name, _DIRECTORY, dir_fd=self.source_fd)
        os.close(self.source_fd)
        self.source_fd = source_fd
        target_fd = os.open(name, _DIRECTORY, dir_fd=self.target_fd)
        os.close(self.target_fd)
        self.target_fd = target_fd

    def _places(self) -> tuple[tuple[int, int], ...]:
        return tree.identity(self.source_fd), tree.identity(self.target_fd)

    def _enter(self, frame: _Frame) -> None:
        """Copy all of the current directory but its subdirectories, which are left to do."""
        self.frames.append(frame)
        frame.places = self._places()
        frame.xattrs, opaque = _xattrs(self.source_fd)
        names = [os.fsencode(name) for name in os.listdir(self.source_fd)]
        if opaque or _OPAQUE in names:
            for old in os.listdir(self.target_fd):
                self._remove(os.fsencode(old))
        rest = []
        for name in names:
            if name.startswith(_WHITEOUT):
                hidden = name[len(_WHITEOUT) :]
                # `.` and `..` are an attack. aufs' own .wh..wh.* have nothing to hide here.
                if hidden not in (b"", b".", b".."):
                    self._remove(hidden)
            else:
                rest.append(name)
        for name in rest:
            status = os.stat(name, dir_fd=self.source_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                frame.todo.append(name)
            else:
                self._copy(name, status)

    def _leave(self) -> None:
        """Give the finished directory its attributes (its times were changed until now).

        Raises:
            RlessError: somebody moved it, and the way up is not the way back.
        """
        frame = self.frames.pop()
        _set_attributes(self.target_fd, frame.status, frame.xattrs)
        if self.frames:
            self._move(b"..")
            if self._places() != self.frames[-1].places:
                raise RlessError(f"the directory {shown(frame.name)} was moved meanwhile")

    def _copy(self, name: bytes, status: os.stat_result) -> None:
        """Copy what is no directory.

        A whiteout is a device, and only removes what was there. Other devices and sockets
        would be of no use to anybody, and are left out.
        """
        mode = status.st_mode
        self._remove(name)
        if stat.S_ISREG(mode):
            if status.st_nlink == 1 or not self._link(name, status):
                self._copy_file(name)
        elif stat.S_ISLNK(mode):
            link = os.readlink(name, dir_fd=self.source_fd)
            os.symlink(link, name, dir_fd=self.target_fd)
            self._set_by_name(name, status)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(name, 0o600, dir_fd=self.target_fd)
            self._set_by_name(name, status)
            # Not by its name, which may be a link by now: chmod would follow it.
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.target_fd)
            try:
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(mode))
            finally:
                os.close(fd)

    def _set_by_name(self, name: bytes, status: os.stat_result) -> None:
        _chown(name, status, self.target_fd)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=self.target_fd, follow_symlinks=False)

    def _link(self, name: bytes, status: os.stat_result) -> bool:
        """Make `name` another name of a file that was copied already; False: it was not."""
        key = (status.st_dev, status.st_ino)
        first = self.links.get(key)
        if first is not None:
            try:
                # By descriptor: a directory of its path may be a link by now, to a file of ours.
                file_fd = openat2(self.root_fd, first, os.O_PATH, resolve=BENEATH)
                try:
                    os.link(
                        f"/proc/self/fd/{file_fd}",
                        name,
                        dst_dir_fd=self.target_fd,
                        follow_symlinks=True,
                    )
                finally:
                    os.close(file_fd)
                return True
            except SyscallError:
                pass  # its path is too long to name, or it is gone: the next copy is the first
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
        self.links[key] = b"/".join([*(frame.name for frame in self.frames[1:]), name])
        return False

    def _copy_file(self, name: bytes) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        source_fd = os.open(name, flags, dir_fd=self.source_fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target_fd = os.open(name, flags, 0o600, dir_fd=self.target_fd)
            try:
                status = os.fstat(source_fd)
                copy_data(source_fd, target_fd, status)
                _set_attributes(target_fd, status, _xattrs(source_fd)[0])
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def _is_directory(self, name: bytes) -> bool:
        try:
            status = os.stat(name, dir_fd=self.target_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def _remove(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self.target_fd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            tree.remove_tree(self.target_fd, os.fsdecode(name))


def _xattrs(fd: int) -> tuple[list[tuple[str, bytes]], bool]:
    """Return the attributes that belong to the file, and whether it is an opaque directory.

    The marks of union file systems are left out.
    """
    try:
        names = os.listxattr(fd)
    except OSError:
        return [], False
    opaque = any(name in names and os.getxattr(fd, name) == b"y" for name in OPAQUE_XATTRS)
    return [
        (name, os.getxattr(fd, name))
        for name in names
        if name == "security.capability"
        or (name.startswith("user.") and not name.startswith(_OUR_XATTRS))
    ], opaque


def _chown(name: bytes | int, status: os.stat_result, dir_fd: int | None = None) -> None:
    try:
        if isinstance(name, int):
            os.chown(name, status.st_uid, status.st_gid)
        else:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):  # no such id here: it stays ours
            raise


def _set_attributes(fd: int, status: os.stat_result, xattrs: list[tuple[str, bytes]]) -> None:
    """Set owner, mode, xattrs and times, in the order in which none undoes another.

    chown clears set-id bits and file capabilities; all of them change ctime only.
    """
    _chown(fd, status)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name, value in xattrs:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            # EPERM: file capabilities without a root to own them.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_data(source_fd: int, target_fd: int, status: os.stat_result) -> None:
    """Copy the contents of a regular file: shared blocks if they can be, holes kept.

    Raises:
        OSError: ENOSPC, EIO...
    """
    global _can_clone
    size = status.st_size
    if size == 0:
        return
    if _can_clone:
        try:
            fcntl.ioctl(target_fd, FICLONE, source_fd)
            return
        except OSError:
            _can_clone = False
    if status.st_blocks * 512 >= size:
        _copy_range(source_fd, target_fd, 0, size)
        return
    start = 0
    while start < size:
        try:
            start = os.lseek(source_fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole follows
                raise
            break
        end = os.lseek(source_fd, start, os.SEEK_HOLE)
        _copy_range(source_fd, target_fd, start, end)
        start = end
    os.ftruncate(target_fd, size)


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    try:
        while start < end:
            copied = os.copy_file_range(source_fd, target_fd, end - start, start, start)
            if copied == 0:
                return
            start += copied
        return
    except OSError as error:
        if error.errno in _NO_SPACE or error.errno == errno.EIO:
            raise  # else: another file system, or one that cannot (before Linux 5.19)
    os.lseek(target_fd, start, os.SEEK_SET)
    while start < end:
        copied = os.sendfile(target_fd, source_fd, start, end - start)
        if copied == 0:
            return
        start += copied
