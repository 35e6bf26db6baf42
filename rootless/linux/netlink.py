"""The one thing a network namespace needs before anything else: its loopback up."""

from __future__ import annotations

import fcntl
import os
import struct

from rootless.errors import SyscallError
from rootless.linux.call import failed, libc

_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


def loopback_up() -> None:
    """Bring `lo` up in the caller's network namespace (netdevice(7)).

    One ioctl: pyroute2 would cost 96 ms for it. Needs CAP_NET_ADMIN in the namespace.
    """
    socket_fd: int = libc.socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0)
    if socket_fd == -1:
        raise failed("socket(AF_INET)")
    try:
        request = struct.pack("16sH22x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(socket_fd, _SIOCSIFFLAGS, request)
    except OSError as error:
        raise SyscallError("ioctl(lo, SIOCSIFFLAGS)", error.errno or 0) from error
    finally:
        os.close(socket_fd)
