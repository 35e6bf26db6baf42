"""Step 2, the time namespace: set its clocks while it is empty, then enter it.

clone3 would put init into it at once, and then the offsets cannot be changed any more. So init
makes it for its children, sets the clocks, and joins it itself. Loaded only where a config has one.
Source: time_namespaces(7), Linux 5.6.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def enter(offsets: Mapping[str, Mapping[str, int]]) -> None:
    """Move the caller into a new time namespace with these offsets.

    Raises:
        RlessError: the kernel has none, or takes no such offset.

    Where it runs: in init, while it is still dumpable: its /proc entries are its own then.
    """
    try:
        ns.unshare(ns.CLONE_NEWTIME)
    except SyscallError as error:
        raise error.within("cannot make the time namespace") from error
    lines = [
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
        for clock, offset in offsets.items()
    ]
    if lines:
        try:
            fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(lines).encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise RlessError(f"linux.timeOffsets: {error.strerror}") from error
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ns.setns(fd, ns.CLONE_NEWTIME)
    finally:
        os.close(fd)
