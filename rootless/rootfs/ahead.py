"""Reading ahead what will run first, where a program has to unpack it page by page.

A program that is started from a squashfs image faults its pages in one after another, and each
time waits until a block is unpacked. Its file can be asked for as soon as the root file system is
there: the kernel reads on its own, so it is unpacked on another processor while the container is
being made.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import SyscallError
from rootless.linux.openat2 import openat2
from rootless.linux.process import Elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 2 << 20  # bytes of a program: what comes later is for special occasions
_STEP = 128 << 10  # bytes: the kernel reads no more for one posix_fadvise(2)
_AT_ONCE = 12  # steps: FUSE lets who asks for more wait (FUSE_DEFAULT_MAX_BACKGROUND)


class Ahead:
    """What is read of one program.

    It is asked for in two parts, some milliseconds apart: nothing is waited for then.
    """

    __slots__ = ("_at", "_end", "_fd")

    def __init__(
        self, root: str, program: str, environment: Iterable[str], directory: str, server: int
    ) -> None:
        """Begin to read a program of the container, if it is found.

        Args:
            program: as execvp(3) takes it, in the container.
            directory: where it is started.
            server: pid of the program that unpacks, a child.
        """
        self._fd = _find(root, program, environment, directory)
        self._at = 0
        self._end = min(os.fstat(self._fd).st_size, _MOST) if self._fd >= 0 else 0
        with Elsewhere(server):
            self._ask(_AT_ONCE * _STEP)

    def finish(self) -> None:
        """Ask for the rest."""
        self._ask(self._end)
        self.close()

    def close(self) -> None:
        """Leave it at that; what is open keeps the image mounted."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ask(self, end: int) -> None:
        try:
            while self._at < min(end, self._end):
                os.posix_fadvise(self._fd, self._at, _STEP, os.POSIX_FADV_WILLNEED)
                self._at += _STEP
        except OSError:
            pass  # it is read when it is needed


def _find(root: str, program: str, environment: Iterable[str], directory: str) -> int:
    """Open a program beneath a root; -1: there is none."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in _candidates(program, environment, directory):
            try:
                fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except SyscallError:
                continue
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                # The first close of a file asks the program whether it wants to hear of that. Later
                # the question would wait behind all that is read, and so would we.
                os.close(os.dup(fd))
                return fd
            os.close(fd)
        return -1
    finally:
        os.close(root_fd)


def _candidates(program: str, environment: Iterable[str], directory: str) -> list[str]:
    if "/" in program:
        return [os.path.join(directory, program)]
    path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
    return [f"{place}/{program}" for place in path.split(":") if place.startswith("/")]
