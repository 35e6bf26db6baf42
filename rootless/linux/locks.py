"""Locks between processes by flock(2), with one error for file systems that have none.

A lock belongs to the open file: a child that was forked meanwhile holds it too, so `unlock` is
called where a child may outlive the caller. It ends with the last descriptor, also after SIGKILL.
Linux emulates it on NFS by a byte-range lock of the whole file, which needs it open for writing;
where the server knows no locks, the caller decides what is safe without.
"""

from __future__ import annotations

import errno
import fcntl
import os

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def lock(fd: int, *, shared: bool = False, wait: bool = True) -> bool | None:
    """Lock an open file or directory.

    Args:
        shared: with others that share it, too.
        wait: until it is free.

    Returns:
        True: it is locked. False: another has it, and it was not waited for. None: the file
        system has no locks.

    Raises:
        OSError: EBADF, EIO...

    Source: flock(2).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EACCES and not wait:
            return False  # NFS says it so
        # A directory, or a file that is open for reading, cannot be locked alone over NFS.
        if error.errno in _NO_LOCKS or (error.errno == errno.EBADF and not shared):
            return None
        raise
    return True


def unlock(fd: int) -> None:
    """Give a lock back, also where a child has the open file, too."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def open_lock(path: str) -> int:
    """Return the lock file of that name, made if absent.

    Raises:
        OSError: ENOSPC, EROFS, ELOOP (a link)...
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def is_at(fd: int, path: str) -> bool:
    """Tell whether an open file is still the one of that name.

    Who removes lock files asks this once the lock is held: the one before may have removed it.
    """
    mine = os.fstat(fd)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


class Locked:
    """Hold the lock of a file or directory for a `with` block, waiting for it.

    Where the file system has no locks, the block runs without one.

    Args:
        path: a directory, or a file, which is made if absent.
        shared: as for `lock`.
    """

    __slots__ = ("_fd", "_path", "_shared")

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._fd = -1

    def __enter__(self) -> None:
        if os.path.isdir(self._path):
            self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            self._fd = open_lock(self._path)
        try:
            lock(self._fd, shared=self._shared)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *details: object) -> None:
        os.close(self._fd)
