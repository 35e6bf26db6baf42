"""The packet filter of the hub: each bridge reaches the outside, and none reaches another.

The name of a bridge says what it may reach: `br-...` the outside, `in-...` (--internal) nothing.
Members are told apart by their addresses, so a packet must come by the bridge of its source.
"""

from __future__ import annotations

from rootless.linux.network import netlink, nftables, route

OUTWARD, INWARD = "br-", "in-"
WAY_OUT = "eth0"  # pasta's interface in the hub
_DNS = 53
_MARK = _TABLE = 117
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
# What pasta would take for the host's loopback. ::/80 has ::, ::1 and ::ffff:0:0/96.
_LOOPBACK, _LOOPBACK6 = (b"\0", b"\x7f"), bytes(10)
_SYSCTLS = (
    ("net/ipv4/conf/all/rp_filter", "1"),  # who asks for names is told by the address
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    # Frames between members of one network are none of the filter's business.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
)


def install(*, transparent: bool) -> None:
    """Make the rules, in the caller's network namespace.

    Args:
        transparent: packets to a socket with the address of a client outside are delivered, so
            that members see who connects to their published ports.

    Raises:
        SyscallError: the kernel has no nf_tables, or not all that is needed.
    """
    accept = nftables.verdict(nftables.ACCEPT)
    drop = nftables.verdict(nftables.DROP)
    known = [*nftables.is_known(), accept]
    not_outside = nftables.comes_by(WAY_OUT, different=True)
    to_us = [
        [*nftables.comes_by("lo"), accept],
        known,
        [*nftables.protocol(_ICMP), accept],
        [*nftables.protocol(_ICMPV6), accept],
        *(
            [*not_outside, *nftables.protocol(number), *nftables.to_port(_DNS), accept]
            for number in (_UDP, _TCP)
        ),
    ]
    through = [
        known,
        *([*nftables.to_ipv4(prefix), drop] for prefix in _LOOPBACK),
        [*nftables.to_ipv6(_LOOPBACK6), drop],
        [*nftables.comes_by(f"{OUTWARD}*"), *nftables.leaves_by(WAY_OUT), accept],
    ]
    out = [[*nftables.leaves_by(WAY_OUT), nftables.masquerade()]]
    ours = [
        *nftables.comes_by(f"{OUTWARD}*"),
        *nftables.to_transparent_socket(),
        *nftables.mark(_MARK),
    ]
    # As rp_filter does for IPv4. `::` is the source of who is about to take an address.
    forged = [*not_outside, *nftables.from_ipv6(bytes(16), different=True)]
    forged += [*nftables.from_elsewhere(), drop]
    first = [forged, *([ours] if transparent else [])]
    nftables.make(
        "rless",
        [
            ("first", "filter", nftables.PREROUTING, -150, nftables.ACCEPT, first),
            ("input", "filter", nftables.INPUT, 0, nftables.DROP, to_us),
            ("forward", "filter", nftables.FORWARD, 0, nftables.DROP, through),
            ("out", "nat", nftables.POSTROUTING, 100, nftables.ACCEPT, out),
        ],
    )


def deliver_to_transparent_sockets() -> None:
    """Route what `install` has marked to the sockets here."""
    netlink.call(route.deliver_marked(_MARK, _TABLE))


def switch_forwarding_on() -> None:
    """Let the kernel forward packets, as far as the rules allow; in the caller's network."""
    for name, value in _SYSCTLS:
        try:
            with open(f"/proc/sys/{name}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError:
            pass  # no IPv6, no bridge filter: nothing to switch
