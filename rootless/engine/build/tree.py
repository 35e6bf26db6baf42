"""Names in a tree that may be hostile: what they lead to, with links followed inside the root.

A tree is a directory descriptor: a context, the mounted tree of a stage. Paths are bytes, relative
to it, without a slash at either end; b"" is the root. What is found is a path without links, which
is opened by openat2 beneath the root through no link. So a link that is swapped in meanwhile makes
an error, and leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rootless.errors import RlessError, SyscallError, escape
from rootless.image.model import limits
from rootless.linux.openat2 import BENEATH, LINKS, openat2
from rootless.linux.walk import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PATH = os.O_PATH | os.O_NOFOLLOW


class Found(NamedTuple):
    """What a path leads to.

    Attributes:
        path: without links; of what is missing too.
        status: None: it is missing.
    """

    path: bytes
    status: os.stat_result | None

    @property
    def is_directory(self) -> bool:
        """Whether it is there, and is a directory."""
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


def cleaned(path: str) -> bytes:
    """Return a path as a tree has it; `..` ends at the root."""
    parts: list[bytes] = []
    for part in os.fsencode(path).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def shown(path: bytes) -> str:
    """Return a path as messages have it."""
    return "/" + escape(os.fsdecode(path))


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of a name, or of a relative path, in a directory."""
    return b"/".join(part for part in (parent, name) if part)


def find(root_fd: int, path: bytes) -> Found:
    """Follow a path; where something is missing, its rest is taken as it is.

    Raises:
        RlessError: a file is used as a directory, links go in a circle, or it may not be read.
    """
    status = _look(root_fd, path)
    if status is not None and not stat.S_ISLNK(status.st_mode):
        return Found(path, status)
    todo = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    status = os.fstat(root_fd)
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del done[-1:]
            continue
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise RlessError(f"{shown(b'/'.join(done))}: not a directory", None, 1)
        here = b"/".join((*done, name))
        status = None if status is None else _look(root_fd, here)
        if status is None or not stat.S_ISLNK(status.st_mode):
            done.append(name)
            continue
        links += 1
        if links > LINKS:
            raise RlessError(f"{shown(path)}: too many links", None, 1)
        target = _link(root_fd, b"/".join(done), name)
        if target.startswith(b"/"):
            done.clear()
        todo += target.split(b"/")[::-1]
        status = _look(root_fd, b"/".join(done))
    return Found(b"/".join(done), _look(root_fd, b"/".join(done)))


def open_directory(root_fd: int, path: bytes) -> int:
    """Open a directory by its path without links, for reading.

    Raises:
        RlessError: it is none any more, or may not be read.
    """
    try:
        return openat2(root_fd, path or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=BENEATH)
    except SyscallError as error:
        raise RlessError(f"{shown(path)}: {os.strerror(error.errno)}", None, 1) from error


@contextmanager
def opened(root_fd: int, path: bytes) -> Iterator[int]:
    """Open a directory for a `with` block, as `open_directory` does."""
    fd = open_directory(root_fd, path)
    try:
        yield fd
    finally:
        os.close(fd)


def open_path(root_fd: int, path: bytes) -> int:
    """Open a directory by its path without links, to look names up in; -1: it is none.

    Raises:
        SyscallError: EACCES...
    """
    try:
        return openat2(root_fd, path or b".", os.O_PATH | os.O_DIRECTORY, resolve=BENEATH)
    except SyscallError as error:
        if error.errno in _ABSENT:
            return -1
        raise


def read_text(root_fd: int, path: bytes, most: int = limits.USER_FILE_BYTES) -> bytes | None:
    """Return what is in a regular file of the tree, with links followed; None: there is none.

    What is something else (a FIFO, a device) is not opened (security classes 69 and 71).

    Raises:
        RlessError: it is no regular file, larger than `most` bytes, or may not be read.
    """
    found = find(root_fd, path)
    if found.status is None:
        return None
    if not stat.S_ISREG(found.status.st_mode):
        raise RlessError(f"{shown(path)}: not a regular file", None, 1)
    parent, _, name = found.path.rpartition(b"/")
    dir_fd = open_path(root_fd, parent)
    try:
        fd = open_file(dir_fd, name) if dir_fd >= 0 else -1
    except OSError as error:
        raise RlessError(f"{shown(path)}: {error.strerror}", None, 1) from error
    finally:
        if dir_fd >= 0:
            os.close(dir_fd)
    if fd < 0:
        raise RlessError(f"{shown(path)}: it was exchanged while it was opened", None, 1)
    with open(fd, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise RlessError(f"{shown(path)}: larger than {most >> 10} KiB", None, 1)
    return data


def _look(root_fd: int, path: bytes) -> os.stat_result | None:
    """Return what has a path without links on the way; None: nothing, or there are links."""
    try:
        fd = openat2(root_fd, path or b".", _PATH, resolve=BENEATH)
    except SyscallError as error:
        if error.errno in _ABSENT:
            return None
        raise RlessError(f"{shown(path)}: {os.strerror(error.errno)}", None, 1) from error
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _link(root_fd: int, parent: bytes, name: bytes) -> bytes:
    try:
        dir_fd = openat2(root_fd, parent or b".", os.O_PATH | os.O_DIRECTORY, resolve=BENEATH)
        try:
            return os.readlink(name, dir_fd=dir_fd)
        finally:
            os.close(dir_fd)
    except (SyscallError, OSError) as error:
        where = shown(join(parent, name))
        raise RlessError(f"{where}: {os.strerror(error.errno or 0)}", None, 1) from error
