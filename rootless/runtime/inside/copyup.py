"""Step 3, the mount option `tmpcopyup`: fill a tmpfs with what the image has at its target.

Directories, files and links are copied with their owners and modes; devices, FIFOs and sockets are
not. Everything is opened by descriptor and no link is followed, because the image is hostile.
Loaded only where a mount asks, as init can import nothing.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError

_DEPTH = 64  # directories in each other: a descriptor and a frame each
_CHUNK = 1 << 20  # bytes


def copy(source_fd: int, target_fd: int) -> None:
    """Copy the contents of one directory into another, which gets its owner, too.

    Raises:
        RlessError: it does not fit, or is nested too deeply.
    """
    try:
        source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source_fd)
        target = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target_fd)
        _copy_directory(source, target, 0)
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)
        os.close(source)
        os.close(target)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RlessError(f"tmpcopyup: {where}{error.strerror}") from error


def _copy_directory(source: int, target: int, depth: int) -> None:
    if depth > _DEPTH:
        raise RlessError(f"tmpcopyup: more than {_DEPTH} directories lie in each other")
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFREG:
            _copy_file(name, source, target, status)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=source)
            made = os.open(name, flags, dir_fd=target)
            _copy_directory(inner, made, depth + 1)
            _copy_owner(status, made)
            os.close(inner)
            os.close(made)


def _copy_file(name: str, source: int, target: int, status: os.stat_result) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    reader = os.open(name, flags, dir_fd=source)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    writer = os.open(name, flags, 0o600, dir_fd=target)
    while os.sendfile(writer, reader, None, _CHUNK):
        pass
    _copy_owner(status, writer)
    os.close(reader)
    os.close(writer)


def _copy_owner(status: os.stat_result, fd: int) -> None:
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
