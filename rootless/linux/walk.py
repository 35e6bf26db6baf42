"""Walk a directory tree that a hostile process may be changing.

Every name is looked up in the directory that it was listed in, by descriptor. No link is followed:
a link that was swapped in appears as a link. Entries that vanish meanwhile are left out. One
descriptor is open for each level, so `..` is never used and cannot lead elsewhere, and paths may
have any length.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux.call import shown
from rootless.linux.openat2 import RESOLVE_NO_SYMLINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Entry:
    """One file on the way, or a directory, which is met twice: before and after its contents.

    Attributes:
        path: from the root of the walk, without a slash in front; b"" for the root itself.
        name: the last part of it. dir_fd: the directory that it is in; -1 for the root.
        fd: a directory's own descriptor, open for reading; else -1.
        status: of the file itself, not of what a link points to.
        leaving: all that is in the directory has been met.
        skip: set it while entering: then nothing of what is in the directory is met.
    """

    __slots__ = ("dir_fd", "fd", "leaving", "name", "path", "skip", "status")

    def __init__(
        self, path: bytes, name: bytes, dir_fd: int, fd: int, status: os.stat_result
    ) -> None:
        self.path = path
        self.name = name
        self.dir_fd = dir_fd
        self.fd = fd
        self.status = status
        self.leaving = False
        self.skip = False

    def open(self) -> int:
        """Open a regular file for reading; -1: it is none any more."""
        return open_file(self.dir_fd, self.name)

    def link(self) -> bytes | None:
        """Return where a symbolic link points to; None: it is none any more."""
        try:
            return os.readlink(self.name, dir_fd=self.dir_fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
            return None


def open_file(dir_fd: int, name: bytes) -> int:
    """Open `name` for reading if it is a regular file; -1: it is something else, or gone.

    Raises:
        OSError: EACCES...
    """
    try:
        fd = os.open(name, _FILE, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR):
            return -1
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return -1
    return fd


def walk(root_fd: int, hides: Callable[[bytes], bool] | None = None) -> Iterator[Entry]:
    """Yield all that is in a directory, which stays open, by the order of the names.

    Args:
        hides: tells by the path that a file or directory is left out: it is not even looked at.

    Raises:
        RlessError: a tree that is too deep for the descriptors of this process.
        OSError: EACCES...
    """
    root = Entry(b"", b"", -1, root_fd, os.fstat(root_fd))
    yield root
    way = [root]
    todo = [[] if root.skip else _names(root_fd)]
    try:
        while way:
            if not todo[-1]:
                entry = way.pop()
                todo.pop()
                entry.leaving = True
                yield entry
                if way:
                    os.close(entry.fd)
                continue
            here = way[-1]
            name = todo[-1].pop()
            path = here.path + b"/" + name if here.path else name
            found = None if hides is not None and hides(path) else _look(here, path, name)
            if found is None:
                continue
            if found.fd < 0:
                yield found
                continue
            way.append(found)
            todo.append([])
            yield found
            if not found.skip:
                todo[-1] = _names(found.fd)
    finally:
        for entry in way[1:]:
            os.close(entry.fd)


def _names(fd: int) -> list[bytes]:
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


def _look(here: Entry, path: bytes, name: bytes) -> Entry | None:
    try:
        status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return Entry(path, name, here.fd, -1, status)
    try:
        fd = openat2(here.fd, name, _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    except SyscallError as error:
        if error.errno in _CHANGED:
            return None
        if error.errno == errno.EMFILE:
            raise RlessError(
                f"{shown(path[:60])}…: directories nested too deeply", "raise `ulimit -n`"
            ) from error
        raise OSError(error.errno, os.strerror(error.errno), shown(path)) from error
    return Entry(path, name, here.fd, fd, os.fstat(fd))
