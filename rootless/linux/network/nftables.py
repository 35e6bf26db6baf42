"""The kernel's packet filter: a table with chains and rules, made in one transaction.

A rule is a list of expressions on registers, as `nft --debug=netlink` shows them. This module has
only those of the bridge networks. Source: linux/netfilter/nf_tables.h, nfnetlink.h; nft(8).
"""

from __future__ import annotations

import struct

from rootless.linux.network import netlink
from rootless.linux.network.netlink import attribute, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Rule = Sequence[bytes]

PREROUTING, INPUT, FORWARD, POSTROUTING = 0, 1, 2, 4  # hooks
DROP, ACCEPT = 0, 1
INET = 1  # family: IPv4 and IPv6
_NFT = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _NEWCHAIN, _NEWRULE = _NFT | 0, _NFT | 3, _NFT | 6
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REGISTER, _VERDICT = 1, 0
_EQUAL, _NOT_EQUAL, _AT_MOST, _AT_LEAST = 0, 1, 3, 5
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 3, 6, 7, 15, 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_FIB_OIF, _FIB_SOURCE_BY_IIF = 1, 1 | 8
_ESTABLISHED_RELATED = 2 | 4  # NF_CT_STATE_BIT
IPV4, IPV6 = 2, 10


def make(table: str, chains: Sequence[tuple[str, str, int, int, int, Sequence[Rule]]]) -> None:
    """Make a table of both families, in the caller's network namespace.

    Args:
        chains: (name, type "filter" or "nat", hook, priority, policy, rules) each.

    Raises:
        SyscallError: EPERM: no CAP_NET_ADMIN; ENOENT, EOPNOTSUPP, EPROTONOSUPPORT: the kernel
            has no nf_tables, or not all of it.
    """
    name = attribute(1, table)
    messages = [
        netlink.Message("batch", _BATCH_BEGIN, 0, struct.pack(">BBH", 0, 0, 10)),
        _message("nf_tables", _NEWTABLE, name),
    ]
    for chain, kind, hook, priority, policy, rules in chains:
        place = nested(4, [_number(1, hook), _number(2, priority)])
        body = name + attribute(3, chain) + place + _number(5, policy) + attribute(7, kind)
        messages.append(_message(f"nf_tables {kind}", _NEWCHAIN, body))
        for rule in rules:
            body = name + attribute(2, chain) + nested(4, [nested(1, [one]) for one in rule])
            messages.append(_message("nf_tables rule", _NEWRULE, body, netlink.F_APPEND))
    messages.append(netlink.Message("batch", _BATCH_END, 0, struct.pack(">BBH", 0, 0, 10)))
    netlink.call(messages, netlink.NETFILTER)


def _message(name: str, kind: int, body: bytes, flags: int = 0) -> netlink.Message:
    header = struct.pack(">BBH", INET, 0, 0)  # struct nfgenmsg
    return netlink.Message(name, kind, netlink.F_ACK | netlink.F_CREATE | flags, header + body)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _expression(name: str, *attributes: bytes) -> bytes:
    return attribute(1, name) + nested(2, attributes)


def _load(key: int) -> bytes:
    return _expression("meta", _number(2, key), _number(1, _REGISTER))


def _compare(value: bytes, operation: int = _EQUAL) -> bytes:
    data = nested(3, [attribute(1, value)])
    return _expression("cmp", _number(1, _REGISTER), _number(2, operation), data)


def _payload(base: int, offset: int, size: int) -> bytes:
    place = (_number(2, base), _number(3, offset), _number(4, size))
    return _expression("payload", _number(1, _REGISTER), *place)


def verdict(code: int) -> bytes:
    """Return what ends a rule: ACCEPT or DROP."""
    data = nested(2, [nested(2, [_number(1, code)])])
    return _expression("immediate", _number(1, _VERDICT), data)


def mark(value: int) -> list[bytes]:
    """Return what gives a packet a mark, which rules of routing can ask for."""
    data = nested(2, [attribute(1, value)])
    loaded = _expression("immediate", _number(1, _REGISTER), data)
    return [loaded, _expression("meta", _number(2, _META_MARK), _number(3, _REGISTER))]


def to_transparent_socket() -> list[bytes]:
    """Match packets to a socket of ours that has somebody else's address (IP_TRANSPARENT)."""
    loaded = _expression("socket", _number(1, 0), _number(2, _REGISTER))
    return [loaded, _compare(b"\1")]


def masquerade() -> bytes:
    """Return what gives a packet the address of the interface that it leaves by."""
    return _expression("masq")


def comes_by(interface: str, *, different: bool = False) -> list[bytes]:
    """Match the interface by which a packet comes; "br-*": the beginning of its name."""
    return [_load(_META_IIFNAME), _compare(_name(interface), int(different))]


def leaves_by(interface: str) -> list[bytes]:
    """Match the interface by which a packet leaves."""
    return [_load(_META_OIFNAME), _compare(_name(interface))]


def _name(interface: str) -> bytes:
    if interface.endswith("*"):
        return interface[:-1].encode()
    return interface.encode().ljust(16, b"\0")


def protocol(number: int) -> list[bytes]:
    """Match the protocol above IP: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6."""
    return [_load(_META_L4PROTO), _compare(bytes([number]))]


def to_port(number: int) -> list[bytes]:
    """Match the port that a packet of TCP or UDP goes to."""
    return [_payload(_TRANSPORT_HEADER, 2, 2), _compare(struct.pack(">H", number))]


def to_ports(first: int, last: int) -> list[bytes]:
    """Match the ports, from the first to the last, that a packet of TCP or UDP goes to."""
    return _ports(2, first, last)


def from_ports(first: int, last: int) -> list[bytes]:
    """Match the ports that a packet of TCP or UDP comes from."""
    return _ports(0, first, last)


def _ports(offset: int, first: int, last: int) -> list[bytes]:
    low, high = struct.pack(">H", first), struct.pack(">H", last)
    loaded = _payload(_TRANSPORT_HEADER, offset, 2)
    return [loaded, _compare(low, _AT_LEAST), _compare(high, _AT_MOST)]


def counter() -> bytes:
    """Return what counts the packets that come this far in a rule, and their bytes."""
    return _expression("counter")


def from_ipv6(prefix: bytes, *, different: bool = False) -> list[bytes]:
    """Match IPv6 packets from addresses that begin with these bytes, or with others."""
    return _header(IPV6, 8, prefix, different)


def to_ipv4(prefix: bytes) -> list[bytes]:
    """Match IPv4 packets to addresses that begin with these bytes."""
    return _header(IPV4, 16, prefix)


def to_ipv6(prefix: bytes) -> list[bytes]:
    """Match IPv6 packets to addresses that begin with these bytes."""
    return _header(IPV6, 24, prefix)


def _header(family: int, offset: int, data: bytes, different: bool = False) -> list[bytes]:
    return [
        _load(_META_NFPROTO),
        _compare(bytes([family])),
        _payload(_NETWORK_HEADER, offset, len(data)),
        _compare(data, int(different)),
    ]


def from_elsewhere() -> list[bytes]:
    """Match packets whose source is not reached by the interface that they come by."""
    looked_up = _expression(
        "fib", _number(1, _REGISTER), _number(2, _FIB_OIF), _number(3, _FIB_SOURCE_BY_IIF)
    )
    return [looked_up, _compare(bytes(4))]


def is_known() -> list[bytes]:
    """Match packets of connections that are there, and what belongs to them."""
    mask = struct.pack("=I", _ESTABLISHED_RELATED)
    return [
        _expression("ct", _number(2, 0), _number(1, _REGISTER)),
        _expression(
            "bitwise",
            _number(1, _REGISTER),
            _number(2, _REGISTER),
            _number(3, 4),
            nested(4, [attribute(1, mask)]),
            nested(5, [attribute(1, bytes(4))]),
        ),
        _compare(bytes(4), _NOT_EQUAL),
    ]
