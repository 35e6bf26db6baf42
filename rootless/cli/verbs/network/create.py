"""`rless network create`: make a network of several containers."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import refuse
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network create",
    "[OPTIONS] NETWORK",
    (
        (
            "Options",
            (
                ("--driver -d", "DRIVER", "value", "driver", "network.create.driver",
                 "Only `bridge`"),
                ("--subnet", "SUBNET", "list", "subnets", "required",
                 "Addresses, such as 10.89.7.0/24; one subnet of each family"),
                ("--gateway", "ADDRESS", "list", "gateways", "network.address",
                 "The address of the network's gateway (default: the first)"),
                ("--ip-range", "SUBNET", "list", "ranges", "required",
                 "Assign addresses from this part of the subnet only"),
                ("--internal", "", "flag", "internal", "boolean", "No connections to the outside"),
                ("--ipv6", "", "flag", "ipv6", "boolean", "Assign IPv6 addresses too"),
                ("--label", "KEY[=VALUE]", "map", "labels", "label", "Set a label"),
                ("--opt -o", "KEY=VALUE", "map", "options", "label",
                 "mtu, or com.docker.network.driver.mtu: the size of the largest packet in bytes"),
                ("--ignore", "", "flag", "ignore", "boolean",
                 "Succeed if the network exists"),
                ("--attachable", "", "flag", "accepted", "boolean",
                 "Accepted without effect: every network is attachable"),
                ("--ipam-driver", "DRIVER", "value", "accepted", "network.create.ipam",
                 "Only `default`"),
            ),
        ),
    ),
    (
        ("--aux-address", "NAME=ADDRESS", "addresses are assigned to containers only",
         "leave room with --ip-range"),
        ("--config-from", "NETWORK", "there is no cluster", ""),
        ("--config-only", "", "there is no cluster", ""),
        ("--disable-dns", "", "members always find each other by name", ""),
        ("--dns", "ADDRESS", "name servers belong to a container", "use run --dns"),
        ("--ingress", "", "there is no cluster", ""),
        ("--interface-name", "NAME", "bridges are in a network namespace of their own", ""),
        ("--ipam-opt", "KEY=VALUE", "the only driver has none", ""),
        ("--ipv4", "", "each network has IPv4 addresses", ""),
        ("--route", "ROUTE", "a network has a single route to the outside", ""),
        ("--scope", "SCOPE", "there is no cluster", ""),
    ),
    least=1,
    most=1,
)  # fmt: skip


def driver(value: str) -> str:
    """Return the only driver."""
    if value != "bridge":
        raise refuse(
            f"the network driver {value}",
            "it needs an interface of the host, and root",
            "use bridge, or run --network=host",
        )
    return value


def ipam(value: str) -> None:
    """Accept what is so anyway."""
    if value not in ("default", "host-local"):
        raise refuse(f"--ipam-driver {value}", "there is one way to give addresses here")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Make a network; print its id, as Docker."""
    from rootless.engine.networks import store

    try:
        made = store.create(
            args[0],
            _subnets(values),
            internal=bool(values.get("internal")),
            ipv6=bool(values.get("ipv6")),
            labels=values.get("labels"),
            options=values.get("options"),
        )
    except RlessError as error:
        if not (values.get("ignore") and "exists already" in error.message):
            raise
        made = store.find(args[0])
    streams.write(f"{made.id}\n")
    return 0


def _subnets(values: dict[str, Any]) -> list[dict[str, str | None]]:
    """Return the subnets, each with the gateway and the range that lie in it.

    Raises:
        RlessError: a gateway or a range is in none of them.
    """
    from rootless.network import addresses

    wanted: list[dict[str, str | None]] = [
        {"subnet": text, "gateway": None, "range": None} for text in values.get("subnets", ())
    ]
    for key, flag, texts in (
        ("gateway", "--gateway", values.get("gateways", ())),
        ("range", "--ip-range", values.get("ranges", ())),
    ):
        for text in texts:
            number, size = addresses.number(text.partition("/")[0])
            for one in wanted:
                whole = addresses.subnet(one["subnet"] or "")
                if whole.size == size and number in whole and not one[key]:
                    one[key] = text
                    break
            else:
                raise RlessError(f"{flag} {text} is in no --subnet", exit_code=1)
    return wanted
