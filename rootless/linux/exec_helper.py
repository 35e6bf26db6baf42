"""Execute a helper program in a forked child, such as one that packs, unpacks or serves images."""

from __future__ import annotations

import os

from rootless.linux import process
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import NoReturn


def exec_helper(
    steps: Callable[[], NoReturn], out_fd: int, error_fd: int, keep: Collection[int]
) -> NoReturn:
    """Make the child ready, then go through `steps`, which end in execve; never return.

    If they fail, it says why as the program would, and ends with 127.

    Args:
        out_fd: for its standard output; -1: what it writes there is lost.
        error_fd: for its standard error.
        keep: descriptors that it gets beside these; standard input is empty.
    """
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(out_fd if out_fd >= 0 else null, 1)
        os.dup2(error_fd, 2)
        process.close_on_exec_from(3)
        for fd in keep:
            os.set_inheritable(fd, True)
        for number in process.HELPER_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        steps()
    except BaseException as error:  # whatever it is: the child does not come back
        try:
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(127)
