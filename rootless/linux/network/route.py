"""Routes of the caller's network namespace (rtnetlink(7))."""

from __future__ import annotations

import errno
import struct

from rootless.linux.network import netlink
from rootless.linux.network.netlink import attribute

AF_INET, AF_INET6 = 2, 10

_RTM_NEWROUTE, _RTM_NEWRULE = 24, 32
_FR_ACT_TO_TBL, _FRA_PRIORITY, _FRA_FWMARK = 1, 6, 10
_LO = 1  # the index of `lo`, in each network namespace
_RT_TABLE_MAIN, _RTPROT_STATIC = 254, 4
_RT_SCOPE_UNIVERSE, _RT_SCOPE_HOST, _RTN_UNICAST, _RTN_LOCAL = 0, 254, 1, 2
_RTA_OIF, _RTA_GATEWAY = 4, 5
# A kernel without IPv6, or with IPv6 switched off for the interface: nothing to route then.
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)


def deliver_marked(mark: int, table: int) -> list[netlink.Message]:
    """Return the requests that deliver packets with a mark here, whatever their address.

    Args:
        table: of the routes, below 252, that nobody else uses.

    Source: Documentation/networking/tproxy.rst, linux/fib_rules.h.
    """
    requests = []
    for family in (AF_INET, AF_INET6):
        # struct fib_rule_hdr: family, two lengths, tos, table, two unused, action, flags
        header = struct.pack("=8BI", family, 0, 0, 0, table, 0, 0, _FR_ACT_TO_TBL, 0)
        attributes = attribute(_FRA_PRIORITY, table) + attribute(_FRA_FWMARK, mark)
        ignored = (errno.EEXIST, *_NO_FAMILY)
        flags = netlink.F_ACK | netlink.F_CREATE | netlink.F_EXCL
        requests.append(
            netlink.Message("RTM_NEWRULE", _RTM_NEWRULE, flags, header + attributes, ignored)
        )
        local = (0, table, _RT_SCOPE_HOST, _RTN_LOCAL)
        requests.append(_route(family, local, attribute(_RTA_OIF, _LO), netlink.F_EXCL))
    return requests


def default(gateway: bytes) -> netlink.Message:
    """Return the request for the default route of a family; one that is there stays."""
    family = AF_INET6 if len(gateway) == 16 else AF_INET
    return _route(
        family,
        (0, _RT_TABLE_MAIN, _RT_SCOPE_UNIVERSE, _RTN_UNICAST),
        attribute(_RTA_GATEWAY, gateway),
        netlink.F_EXCL,
    )


def _route(
    family: int, what: tuple[int, int, int, int], attributes: bytes, flags: int
) -> netlink.Message:
    length, table, scope, kind = what
    # struct rtmsg: family, two lengths, tos, table, protocol, scope, type, flags
    body = struct.pack("=8BI", family, length, 0, 0, table, _RTPROT_STATIC, scope, kind, 0)
    return netlink.Message(
        "RTM_NEWROUTE",
        _RTM_NEWROUTE,
        netlink.F_ACK | netlink.F_CREATE | flags,
        body + attributes,
        (errno.EEXIST, *(_NO_FAMILY if family == AF_INET6 else ())),
    )
