"""Routes of the caller's network namespace that lead nowhere (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import struct

from rootless.errors import SyscallError
from rootless.linux.call import failed, libc

AF_INET, AF_INET6 = 2, 10

_AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC, _NETLINK_ROUTE = 16, 3, 0o2000000, 0
_RTM_NEWROUTE, _NLMSG_ERROR = 24, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNREACHABLE = 254, 4, 0, 7
_RTA_DST = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ANSWER_SIZE = 16384


def add_unreachable(prefixes: list[tuple[int, bytes, int]]) -> None:
    """Add an unreachable route for each (family, address, prefix length).

    A packet that only such a route fits is refused to its sender. Routes of the table `local`
    come first: what is delivered in this namespace still is. One that exists, or a family that
    the kernel does not have, is no error.

    Raises:
        SyscallError: EPERM: no CAP_NET_ADMIN in the user namespace of the network namespace.

    Source: rtnetlink(7), linux/rtnetlink.h.
    """
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    request = b""
    for number, (family, address, length) in enumerate(prefixes):
        body = struct.pack(
            "=BBBBBBBBI",
            family,
            length,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_STATIC,
            _RT_SCOPE_UNIVERSE,
            _RTN_UNREACHABLE,
            0,
        )
        body += struct.pack("=HH", 4 + len(address), _RTA_DST) + address
        request += _HEADER.pack(_HEADER.size + len(body), _RTM_NEWROUTE, flags, number, 0) + body
    socket_fd: int = libc.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, _NETLINK_ROUTE)
    if socket_fd == -1:
        raise failed("socket(AF_NETLINK)")
    try:
        os.write(socket_fd, request)
        missing = len(prefixes)
        while missing:
            answer = os.read(socket_fd, _ANSWER_SIZE)
            offset = 0
            while offset < len(answer):
                length, kind = _HEADER.unpack_from(answer, offset)[:2]
                if kind == _NLMSG_ERROR:  # an acknowledgement is error 0
                    _check(-struct.unpack_from("=i", answer, offset + _HEADER.size)[0])
                    missing -= 1
                offset += (length + 3) & ~3
    finally:
        os.close(socket_fd)


def _check(number: int) -> None:
    if number not in (0, errno.EEXIST, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
        raise SyscallError("netlink(RTM_NEWROUTE)", number)
