"""Count what comes by published ports from the host's loopback, for `stats`.

pasta does not send the bytes of such a client through the container's interface: it connects on the
container's own loopback, and lets the kernel move them (splice(2)). The counters of eth0 miss them.
So the packet filter counts on the loopback, by the ports that are published. What a process of the
container itself sends to such a port of its own is counted too.
"""

from __future__ import annotations

from rootless.errors import SyscallError
from rootless.linux.network import nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rootless.linux.network.nftables import Rule

TABLE = "rless-published"
RECEIVED, SENT = "received", "sent"  # its chains
_NUMBERS = {"tcp": 6, "udp": 17}


def count(shown: Iterable[str]) -> None:
    """Begin to count, in the caller's network namespace; a kernel without nf_tables does not.

    Args:
        shown: "0.0.0.0:8080->80/tcp" each, as `ports.Taken` shows them.
    """
    received: list[Rule] = []
    sent: list[Rule] = []
    for protocol, first, last in _runs({text.rpartition("->")[2] for text in shown}):
        known = nftables.protocol(_NUMBERS[protocol])
        counted = nftables.counter()
        received.append(
            [*nftables.comes_by("lo"), *known, *nftables.to_ports(first, last), counted]
        )
        sent.append([*nftables.leaves_by("lo"), *known, *nftables.from_ports(first, last), counted])
    chains: Sequence[tuple[str, str, int, int, int, Sequence[Rule]]] = [
        (RECEIVED, "filter", nftables.INPUT, 0, nftables.ACCEPT, received),
        (SENT, "filter", nftables.POSTROUTING, 0, nftables.ACCEPT, sent),
    ]
    try:
        nftables.make(TABLE, chains)
    except SyscallError:
        pass  # the numbers of `stats` miss something then, and all else works


def _runs(ports: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return (protocol, first, last) of the ports; neighbours are one run."""
    runs: list[tuple[str, int, int]] = []
    for protocol, number in sorted(
        (protocol, int(number)) for number, _, protocol in (port.partition("/") for port in ports)
    ):
        if runs and runs[-1][0] == protocol and runs[-1][2] + 1 == number:
            runs[-1] = (protocol, runs[-1][1], number)
        else:
            runs.append((protocol, number, number))
    return runs
