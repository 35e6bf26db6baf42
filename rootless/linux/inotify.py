"""Files that change, told by the kernel (inotify(7)).

It tells of what happens on this host only: what another host does on a network file system is found
by looking again from time to time.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from rootless.errors import RlessError
from rootless.linux import ffi
from rootless.linux.call import encode, failed, libc

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_ONLYDIR = 0x01000000
_CHANGES = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_ONLYDIR
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name after it
_BUFFER = 1 << 16

_init = libc.inotify_init1
_add_watch = libc.inotify_add_watch
_rm_watch = libc.inotify_rm_watch


class Inotify:
    """Directories that are watched, by numbers. A `with` block closes it."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            RlessError: the user has as many as /proc/sys/fs/inotify/max_user_instances allows.
        """
        self.fd: int = _init(_FLAGS)
        if self.fd == -1:
            raise failed("inotify_init1")

    def watch(self, directory: str) -> int:
        """Watch the files of a directory; return its number, the same for the same directory.

        Raises:
            RlessError: there is no such directory, or too many are watched.
        """
        number: int = _add_watch(self.fd, encode(directory), ffi.c_uint32(_CHANGES))
        if number == -1:
            raise failed(f"inotify_add_watch({directory})")
        return number

    def forget(self, number: int) -> None:
        """Watch a directory no more; it may be gone."""
        _rm_watch(self.fd, number)

    def read(self) -> set[int]:
        """Return the numbers of the directories in which something has changed since."""
        found: set[int] = set()
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return found
                raise
            at = 0
            while at < len(data):
                number, _, _, length = _EVENT.unpack_from(data, at)
                found.add(number)
                at += _EVENT.size + length

    def wait(self, seconds: float) -> bool:
        """Wait until something changes, or for so long; tell whether it has."""
        select.select([self.fd], [], [], seconds)
        return bool(self.read())

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def watching(directory: str) -> Inotify | None:
    """Return what watches one directory; None: it cannot be watched."""
    try:
        made = Inotify()
    except RlessError:
        return None
    try:
        made.watch(directory)
    except RlessError:
        made.close()
        return None
    return made
