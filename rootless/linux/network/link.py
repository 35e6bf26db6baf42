"""Interfaces of a network namespace: bridges, pairs of virtual ones, their addresses.

Functions return a `netlink.Message` for `netlink.call`, so that several requests are sent to the
kernel at once. Source: rtnetlink(7), linux/if_link.h, linux/veth.h.
"""

from __future__ import annotations

import _socket
import errno
import struct

from rootless.errors import SyscallError
from rootless.linux.network import netlink
from rootless.linux.network.netlink import attribute, nested

_RTM_NEWLINK, _RTM_NEWADDR = 16, 20
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_NET_NS_FD = 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFF_UP = 0x1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x2
_NEW = netlink.F_ACK | netlink.F_CREATE | netlink.F_EXCL


def index(name: str) -> int:
    """Return the index of an interface of the caller's network namespace.

    Raises:
        SyscallError: ENODEV: there is none of this name.
    """
    try:
        number: int = _socket.if_nametoindex(name)
    except OSError as error:
        raise SyscallError(f"if_nametoindex({name})", errno.ENODEV) from error
    return number


def _info(number: int = 0, up: bool = False) -> bytes:
    # struct ifinfomsg: family, type, index, flags, which of them change
    return struct.pack("=BxHiII", 0, 0, number, _IFF_UP * up, _IFF_UP * up)


def _kind(name: str, *data: bytes) -> bytes:
    inner = [attribute(_IFLA_INFO_KIND, name)]
    if data:
        inner.append(nested(_IFLA_INFO_DATA, data))
    return nested(_IFLA_LINKINFO, inner)


def bridge(name: str, mac: bytes, mtu: int) -> netlink.Message:
    """Return the request for a bridge that is up; one that is there stays."""
    attributes = attribute(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac)
    attributes += attribute(_IFLA_MTU, mtu)
    body = _info(up=True) + attributes + _kind("bridge")
    return netlink.Message(f"bridge {name}", _RTM_NEWLINK, _NEW, body, (errno.EEXIST,))


def pair(
    name: str, master: int, mtu: int, peer: str, peer_netns: int, mac: bytes
) -> netlink.Message:
    """Return the request for a pair of interfaces: one in a bridge here, one in another network.

    The other one is not up yet: the kernel opens it before it knows its peer.

    Args:
        name, master: of the one here, and the index of its bridge.
        peer, peer_netns, mac: the other one; a descriptor of its network namespace.
    """
    size = attribute(_IFLA_MTU, mtu)
    other = (
        _info()
        + attribute(_IFLA_IFNAME, peer)
        + attribute(_IFLA_ADDRESS, mac)
        + size
        + attribute(_IFLA_NET_NS_FD, peer_netns)
    )
    body = _info(up=True) + attribute(_IFLA_IFNAME, name) + attribute(_IFLA_MASTER, master) + size
    body += _kind("veth", attribute(_VETH_INFO_PEER, other))
    return netlink.Message(f"veth {peer}", _RTM_NEWLINK, _NEW, body)


def up(number: int) -> netlink.Message:
    """Return the request that brings an interface up."""
    return netlink.Message("up", _RTM_NEWLINK, netlink.F_ACK, _info(number, up=True))


def address(number: int, value: bytes, prefix: int) -> netlink.Message:
    """Return the request for an address of an interface; one that is there stays.

    An IPv6 one can be used at once: who else has it is known without asking on the link. Where
    IPv6 is switched off it is left out.
    """
    family = _socket.AF_INET6 if len(value) == 16 else _socket.AF_INET
    # struct ifaddrmsg: family, prefix, flags, scope, interface
    body = struct.pack("=4BI", family, prefix, _IFA_F_NODAD * (len(value) == 16), 0, number)
    body += attribute(_IFA_LOCAL, value) + attribute(_IFA_ADDRESS, value)
    no_family = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM)
    ignored = (errno.EEXIST, *(no_family if len(value) == 16 else ()))
    return netlink.Message("RTM_NEWADDR", _RTM_NEWADDR, _NEW, body, ignored)
