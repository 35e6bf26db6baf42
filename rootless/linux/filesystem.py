"""Calls about a file system as a whole."""

from __future__ import annotations

from rootless.linux.call import failed, libc


def syncfs(fd: int) -> None:
    """Write everything that is cached of one file system to its disk.

    One call for a pull of 60,000 files costs far less than an fsync of each.

    Raises:
        SyscallError: EIO or ENOSPC: data was lost since the last call (Linux 5.8).

    Source: syncfs(2).
    """
    if libc.syncfs(fd) == -1:
        raise failed("syncfs")
