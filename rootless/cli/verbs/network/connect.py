"""`rless network connect`: put a container into a network, running or not."""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network connect",
    "[OPTIONS] NETWORK CONTAINER",
    (
        (
            "Options",
            (
                ("--alias", "NAME", "list", "aliases", "network.alias",
                 "Another name in this network"),
                ("--ip", "ADDRESS", "value", "ip", "network.ip4", "Its IPv4 address there"),
                ("--ip6", "ADDRESS", "value", "ip6", "network.ip6", "Its IPv6 address there"),
                ("--mac-address", "ADDRESS", "value", "mac", "network.mac",
                 "Its hardware address there"),
            ),
        ),
    ),
    (
        ("--driver-opt", "KEY=VALUE", "the driver has none", ""),
        ("--gw-priority", "N", "the first network that is not internal has the default route", ""),
        ("--link", "CONTAINER", "members find each other by name", ""),
        ("--link-local-ip", "ADDRESS", "the network assigns these addresses itself", ""),
    ),
    least=2,
    most=2,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Connect, and print nothing, as Docker."""
    from rootless.engine.manage import network_connect
    from rootless.engine.state import reconcile

    reconcile.reconcile()
    network_connect.connect(
        args[0], args[1], {key: value for key, value in values.items() if value}
    )
    return 0
