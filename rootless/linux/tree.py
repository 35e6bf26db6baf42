"""Delete untrusted directory trees: any depth, any modes, any names.

Images and containers leave trees that defeat shutil.rmtree: modes of 000, paths longer than
PATH_MAX, millions of entries in one directory, and links that lead a deletion outside. Here every
step is relative to a descriptor, no link is followed, no mount is entered, and the way back up is
checked. So one descriptor is enough for any depth.

Where it runs: in a user namespace that maps the owners of the tree, or outside if all files are
ours.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux.call import shown
from rootless.linux.openat2 import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_RESOLVE = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS
_ATTEMPTS = 1000  # each one that fails has seen another's progress


def remove_tree(dir_fd: int, name: str | bytes) -> None:
    """Delete `name`, a file or a whole tree, in the directory `dir_fd`; absent is no error.

    Others may delete it at the same time: two commands that clear up after a third one.

    Args:
        name: one path component.

    Raises:
        RlessError: something was not deleted: a mount below it (EBUSY, EXDEV), an immutable
            file, owners that are not mapped here.
    """
    raw = os.fsencode(name)
    if b"/" in raw or raw in (b"", b".", b".."):
        raise RlessError(f"cannot delete {shown(raw)}: not the name of a file")
    for attempt in range(_ATTEMPTS):
        try:
            _remove(dir_fd, raw)
            return
        except SyscallError as error:
            # What we were in is gone: another one was faster there. From the top again.
            if error.errno != errno.ENOENT or attempt + 1 == _ATTEMPTS:
                raise


def _remove(dir_fd: int, raw: bytes) -> None:
    try:
        os.unlink(raw, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        # EISDIR on Linux, EPERM by POSIX; anything else may still be a directory in our way.
        if error.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
            raise _failed(raw, error) from error
    try:
        current = _descend(dir_fd, raw)
    except NotADirectoryError as error:
        raise RlessError(f"cannot delete {shown(raw)}: permission denied") from error
    # For each directory on the way down: its identity and the names left to do in it.
    way: list[tuple[tuple[int, int], list[bytes], bytes]] = []
    try:
        names = _empty(current, raw)
        here = raw
        while True:
            if names:
                child = names.pop()
                below = _descend(current, child)
                way.append((identity(current), names, here))
                os.close(current)
                current, here = below, child
                names = _empty(current, child)
                continue
            if not way:
                break
            place, names, upper = way.pop()
            above = _open(current, b"..")
            os.close(current)
            current = above
            if identity(current) != place:
                raise RlessError(f"cannot delete {shown(raw)}: it was moved meanwhile")
            _rmdir(current, here)
            here = upper
    finally:
        os.close(current)
    _rmdir(dir_fd, raw)


def disk_usage(dir_fd: int, name: str | bytes, seen: set[tuple[int, int]]) -> int:
    """Return the bytes that a file or a whole tree has on disk, as du(1) counts them.

    Blocks, so that holes cost nothing, and each inode once. What is deleted meanwhile, and what
    lies on a mount below, is not counted.

    Args:
        name: one path component, or "." for the directory itself.
        seen: what was counted before; is added to.

    Raises:
        RlessError: a directory cannot be read.
    """
    raw = os.fsencode(name)
    total, is_directory = _blocks(dir_fd, raw, seen)
    if not is_directory:
        return total
    current = _open_to_read(dir_fd, raw)
    if current < 0:
        return total
    way: list[tuple[tuple[int, int], list[bytes]]] = []
    try:
        below, names = _count(current, seen)
        total += below
        while True:
            if names:
                child = _open_to_read(current, names.pop())
                if child < 0:
                    continue
                way.append((identity(current), names))
                os.close(current)
                current = child
                below, names = _count(current, seen)
                total += below
                continue
            if not way:
                return total
            place, names = way.pop()
            above = _open(current, b"..")
            os.close(current)
            current = above
            if identity(current) != place:
                return total  # it was moved away meanwhile: what was below is not ours to count
    finally:
        os.close(current)


def _open_to_read(dir_fd: int, name: bytes) -> int:
    """Open a directory; -1: it has gone, or is a mount."""
    try:
        return _open(dir_fd, name)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return -1
        raise


def _count(fd: int, seen: set[tuple[int, int]]) -> tuple[int, list[bytes]]:
    """Return the bytes of what lies in a directory, and the names of the directories there."""
    total, directories = 0, []
    with os.scandir(fd) as entries:
        names = [os.fsencode(entry.name) for entry in entries]
    for name in names:
        size, is_directory = _blocks(fd, name, seen)
        total += size
        if is_directory:
            directories.append(name)
    return total, directories


def _blocks(dir_fd: int, name: bytes, seen: set[tuple[int, int]]) -> tuple[int, bool]:
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return 0, False
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        key = (status.st_dev, status.st_ino)
        if key in seen:
            return 0, False
        seen.add(key)
    return 512 * status.st_blocks, stat.S_ISDIR(status.st_mode)


def _empty(fd: int, here: bytes) -> list[bytes]:
    """Delete all but the directories in `fd`; return the names of these."""
    directories = []
    with os.scandir(fd) as entries:
        found = [
            (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
        ]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
            continue
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            directories.append(name)
        except OSError as error:
            raise _failed(here + b"/" + name, error) from error
    return directories


def _descend(dir_fd: int, name: bytes) -> int:
    """Open a directory whose entries are to be deleted, made accessible if need be."""
    try:
        fd = _open(dir_fd, name)
    except SyscallError as error:
        if error.errno == errno.ENOTDIR:
            raise NotADirectoryError(error.errno, error.message) from error
        if error.errno != errno.EACCES:
            raise
        _chmod(dir_fd, name)
        fd = _open(dir_fd, name)
    mode = os.fstat(fd).st_mode
    if mode & 0o700 != 0o700:
        try:
            os.fchmod(fd, 0o700)
        except PermissionError:
            pass  # not ours; the deletion itself tells whether that matters
    return fd


def _open(dir_fd: int, name: bytes) -> int:
    return openat2(dir_fd, name, _OPEN, resolve=_RESOLVE)


def _chmod(dir_fd: int, name: bytes) -> None:
    """Give ourselves access to a directory; O_PATH needs no permission on it."""
    fd = openat2(dir_fd, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_RESOLVE)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    except OSError as error:
        raise _failed(name, error) from error
    finally:
        os.close(fd)


def identity(fd: int) -> tuple[int, int]:
    """Return what tells an open file from all others: device and inode."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _rmdir(dir_fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _failed(name, error) from error


def _failed(name: bytes, error: OSError) -> RlessError:
    return RlessError(f"cannot delete {shown(name)}: {error.strerror}")
