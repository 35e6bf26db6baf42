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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 3 << 19  # bytes of a program: what comes later is for special occasions
_STEP = 128 << 10  # bytes: the kernel reads no more for one posix_fadvise(2)


def read(root: str, program: str, environment: Iterable[str], directory: str) -> None:
    """Begin to read a program of the container, if it is found; nothing is waited for.

    Args:
        program: as execvp(3) takes it, in the container.
        directory: where it is started.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in _candidates(program, environment, directory):
            try:
                fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except SyscallError:
                continue
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
                    continue
                for offset in range(0, min(status.st_size, _MOST), _STEP):
                    os.posix_fadvise(fd, offset, _STEP, os.POSIX_FADV_WILLNEED)
                return
            finally:
                os.close(fd)
    except OSError:
        pass  # it is read when it is needed
    finally:
        os.close(root_fd)


def _candidates(program: str, environment: Iterable[str], directory: str) -> list[str]:
    if "/" in program:
        return [os.path.join(directory, program)]
    path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
    return [f"{place}/{program}" for place in path.split(":") if place.startswith("/")]
