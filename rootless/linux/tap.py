"""Tap devices: interfaces whose other end is a program in user space (tuntap.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from rootless.errors import SyscallError
from rootless.linux.call import failed, libc

_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_SIOCSIFFLAGS, _SIOCSIFHWADDR, _SIOCGIFINDEX = 0x8914, 0x8924, 0x8933
_IFF_TAP, _IFF_NO_PI, _IFF_UP = 0x2, 0x1000, 0x1
_ARPHRD_ETHER = 1


def make(name: str, address: bytes | None = None) -> int:
    """Make a tap device in the caller's network namespace and bring it up; return its index.

    It stays, without a carrier, until a program attaches to it by its name. One that is
    attached already is no error.

    Args:
        address: its hardware address; None: a random one.

    Raises:
        SyscallError: ENOENT, EACCES: /dev/net/tun is missing or closed; EPERM: no
            CAP_NET_ADMIN; EINVAL: not a name, or another kind of interface; EADDRNOTAVAIL: no
            address of one interface.

    Source: Documentation/networking/tuntap.rst, netdevice(7).
    """
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    call = "open(/dev/net/tun)"
    try:
        tun_fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            call = f"ioctl({name}, TUNSETIFF)"
            fcntl.ioctl(tun_fd, _TUNSETIFF, request)
            fcntl.ioctl(tun_fd, _TUNSETPERSIST, 1)
        finally:
            os.close(tun_fd)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise SyscallError(call, error.errno or 0) from error
    socket_fd: int = libc.socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0)
    if socket_fd == -1:
        raise failed("socket(AF_INET)")
    try:
        if address is not None:  # before it is up: it speaks at once
            request = struct.pack("16sH6s16x", name.encode(), _ARPHRD_ETHER, address)
            fcntl.ioctl(socket_fd, _SIOCSIFHWADDR, request)
        fcntl.ioctl(socket_fd, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _IFF_UP))
        answer = fcntl.ioctl(socket_fd, _SIOCGIFINDEX, struct.pack("16s24x", name.encode()))
    except OSError as error:
        raise SyscallError(f"ioctl({name})", error.errno or 0) from error
    finally:
        os.close(socket_fd)
    index: int = struct.unpack_from("i", answer, 16)[0]
    return index
