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

_STEP = 128 << 10  # bytes: the kernel reads no more for one posix_fadvise(2)
# Of a program a start needs the head, and little else. More than this, and all that is asked of the
# image meanwhile waits until it is unpacked: squashfuse has one thread.
_STEPS = 3


def read_ahead(
    root_fd: int, program: str, environment: Iterable[str], directory: str, server: int
) -> None:
    """Have the head of a program of the container read, if the program is found; wait for nothing.

    Args:
        root_fd: of the root of the image.
        program: as execvp(3) takes it, in the container.
        directory: where it is started.
        server: pid of the program that unpacks, a child.
    """
    fd = _find(root_fd, program, environment, directory)
    if fd < 0:
        return
    try:
        with Elsewhere(server):
            for step in range(_STEPS):
                os.posix_fadvise(fd, step * _STEP, _STEP, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass  # it is read when it is needed
    finally:
        os.close(fd)


def _find(root_fd: int, program: str, environment: Iterable[str], directory: str) -> int:
    """Open a program beneath a root; -1: there is none."""
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


def _candidates(program: str, environment: Iterable[str], directory: str) -> list[str]:
    if "/" in program:
        return [os.path.join(directory, program)]
    path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
    return [f"{place}/{program}" for place in path.split(":") if place.startswith("/")]
