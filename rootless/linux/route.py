"""Routes of the caller's network namespace (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import struct

from rootless.errors import SyscallError
from rootless.linux.call import failed, libc

AF_INET, AF_INET6 = 2, 10

_AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC, _NETLINK_ROUTE = 16, 3, 0o2000000, 0
_RTM_NEWROUTE, _NLMSG_ERROR = 24, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 4, 254, 2
_RTA_DST, _RTA_OIF = 1, 4
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ANSWER_SIZE = 16384
# A kernel without IPv6, or with IPv6 switched off for the interface: nothing to route then.
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)


def add_local(interface: int, prefixes: list[tuple[int, bytes, int]]) -> None:
    """Deliver each (family, address, prefix length) here if it is sent by way of `interface`.

    Without such a route a socket that is bound to an interface sends by it whatever the address
    is: an IPv4 lookup that fails counts as "on this link", and so an unreachable route would
    not do. Lookups without an interface find the routes of `lo` first, as before.

    Args:
        interface: index of an interface that is up.

    Raises:
        SyscallError: EPERM: no CAP_NET_ADMIN in the user namespace of the network namespace;
            ENETDOWN: the interface is not up.

    Source: rtnetlink(7), linux/rtnetlink.h; ip_route_output_key_hash_rcu in the kernel.
    """
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_APPEND
    request = b""
    for number, (family, address, length) in enumerate(prefixes):
        # struct rtmsg: family, two lengths, tos, table, protocol, scope, type, flags
        route = (family, length, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL)
        body = struct.pack("=8BI", *route, 0)
        body += struct.pack("=HH", 4 + len(address), _RTA_DST) + address
        body += struct.pack("=HHI", 8, _RTA_OIF, interface)
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
                length, kind, _, number, _ = _HEADER.unpack_from(answer, offset)
                if kind == _NLMSG_ERROR:  # an acknowledgement is error 0
                    code = -struct.unpack_from("=i", answer, offset + _HEADER.size)[0]
                    _check(code, prefixes[number][0])
                    missing -= 1
                offset += (length + 3) & ~3
    finally:
        os.close(socket_fd)


def _check(code: int, family: int) -> None:
    if code in (0, errno.EEXIST) or (family == AF_INET6 and code in _NO_FAMILY):
        return
    raise SyscallError("netlink(RTM_NEWROUTE)", code)
