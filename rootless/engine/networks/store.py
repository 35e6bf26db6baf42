"""Networks of several containers, on disk: made, found, shown, removed.

    <storage>/networks/<name>.json   whole at any moment; made by link(2), so a name is unique

`attachment` puts containers into them. A network has nothing in the kernel while no container is in
it. `bridge` always exists. It has what Docker's default network does not have: names.
"""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.engine.state import events
from rootless.engine.state.container import (
    all_ids,
    is_owned,
    load,
    read_json,
    run_records_root,
    write_new,
)
from rootless.errors import CONFLICT, FORBIDDEN, INVALID, NOT_FOUND, RlessError, escape
from rootless.network import addresses, firewall
from rootless.network.addresses import Subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from rootless.engine.state.records import MemberRecord, NetworkRecord, RunRecord, SubnetRecord

DEFAULT = "bridge"
# What --network says of another thing.
RESERVED = ("default", "host", "none", "ns", "pasta", "private", "container", "slirp4netns")
_ID_SIZE = 64
_SMALLEST_MTU, _LARGEST_MTU = 68, 65535
# Addresses that are no container's: this host, itself, multicast, and the hub's link to pasta.
_SPECIAL = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.117.0/24", "224.0.0.0/3"),
    *("::/96", "::ffff:0.0.0.0/96", "fd72:6c65:7373::/64", "fe80::/10", "ff00::/8"),
)
_PASTA_MTU = 65520


class Network:
    """One network; `record` is its file."""

    __slots__ = ("record",)

    def __init__(self, record: NetworkRecord) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """Return its name."""
        return self.record["name"]

    @property
    def id(self) -> str:
        """Return its id: 64 hexadecimal digits."""
        return self.record["id"]

    @property
    def internal(self) -> bool:
        """Tell whether it has no way out."""
        return self.record["internal"]

    @property
    def bridge(self) -> str:
        """Return the name of its bridge in the hub."""
        return (firewall.INWARD if self.internal else firewall.OUTWARD) + self.id[:12]

    @property
    def ranges(self) -> list[tuple[Subnet, Subnet, int]]:
        """Return (subnet, where addresses are given from, gateway) of each family."""
        return [
            (
                addresses.subnet(one["subnet"]),
                addresses.subnet(one["range"] or one["subnet"]),
                addresses.number(one["gateway"])[0],
            )
            for one in self.record["subnets"]
        ]

    @property
    def reserved(self) -> set[str]:
        """Return addresses that a container gets only if it asks for them."""
        return {
            addresses.show(*addresses.number(address))
            for one in self.record["subnets"]
            for address in one.get("reserved", {}).values()
        }

    @property
    def mtu(self) -> int:
        """Return the largest packet in bytes; by default that of pasta, which sends no packets."""
        return int(self.record["options"].get(MTU) or _PASTA_MTU)


MTU = "com.docker.network.driver.mtu"
_BRIDGE = "com.docker.network.bridge."
# What is so in each network: Docker's options that say it change nothing, and come back as given.
_AS_IT_IS = {
    f"{_BRIDGE}enable_icc": "true",
    f"{_BRIDGE}enable_ip_masquerade": "true",
    f"{_BRIDGE}host_binding_ipv4": "0.0.0.0",
}
_BRIDGE_NAME = f"{_BRIDGE}name"


def root() -> str:
    """Return the directory of the networks' files."""
    return paths.checked(f"{paths.storage_root()}/networks")


def is_name(text: str) -> bool:
    """Tell whether a network may have this name."""
    return (
        text[:1].isalnum()
        and text == text.strip()
        and text.isascii()
        and len(text) < 200
        and all(char.isalnum() or char in "_.- " for char in text)
    )


def create(
    name: str,
    subnets: Sequence[Mapping[str, Any]] = (),
    *,
    internal: bool = False,
    ipv6: bool = False,
    labels: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    quiet: bool = False,
) -> Network:
    """Make a network.

    Args:
        subnets: "subnet", "gateway" and "range" each, of which the last two may be None; and
            "reserved", addresses that no container gets by itself, by their names.
        ipv6: it has an IPv6 subnet, whether one is given or not.
        quiet: it comes by itself: one that somebody else made just now will do.

    Raises:
        RlessError: the name is in use, or the addresses cannot be.
    """
    if not is_name(name) or name in RESERVED:
        raise RlessError(
            f"{escape(name)!r} cannot be the name of a network", exit_code=1, kind=INVALID
        )
    record: NetworkRecord = {
        "name": name,
        "id": os.urandom(_ID_SIZE // 2).hex(),
        "created": time.time(),
        "internal": internal,
        "ipv6": ipv6,
        "labels": labels or {},
        "options": _checked_options(options or {}),
        "subnets": _choose_subnets(subnets, ipv6),
    }
    if not write_new(f"{root()}/{name}.json", record):
        if quiet:
            return find(name)
        raise RlessError(f"network {name} exists already", "choose another name", 1, kind=CONFLICT)
    events.record("create", "network", record["id"], name=name, type="bridge")
    return Network(record)


def _checked_options(options: dict[str, str]) -> dict[str, str]:
    checked = {}
    for given, value in options.items():
        key = MTU if given == "mtu" else given
        if key == _BRIDGE_NAME:
            log.warn(f"{key}: the bridge is seen by rless alone, which names it itself")
        elif key == MTU:
            if not value.isdigit() or not _SMALLEST_MTU <= int(value) <= _LARGEST_MTU:
                raise RlessError(f"--opt mtu: {escape(value)!r} is not a packet size in bytes")
        elif _AS_IT_IS.get(key) != value:
            raise RlessError(
                f"--opt {escape(key)} is not supported", f"mtu, or {MTU}, is; the rest is Docker's"
            )
        checked[key] = value
    return checked


def _choose_subnets(requested: Sequence[Mapping[str, Any]], ipv6: bool) -> list[SubnetRecord]:
    """Return the subnets, one of each family at most, with their gateways."""
    taken = [whole for network in every() for whole, _, _ in network.ranges]
    chosen: list[tuple[Subnet, Mapping[str, Any]]] = []
    for one in requested:
        whole = addresses.subnet(one["subnet"] or "")
        if any(whole.size == other.size for other, _ in chosen):
            raise RlessError("a network can have only one subnet of each family", exit_code=1)
        for other in taken:
            if whole.overlaps(other):
                raise RlessError(f"--subnet {whole} overlaps with {other} of another network")
        for other in map(addresses.subnet, _SPECIAL):
            if whole.overlaps(other):
                raise RlessError(f"--subnet {whole}: containers cannot have addresses of {other}")
        if whole.count < 4:
            raise RlessError(f"--subnet {whole} is too small for a gateway and a container")
        chosen.append((whole, one))
    nothing: dict[str, Any] = {"gateway": None, "range": None}
    if not any(whole.size == 4 for whole, _ in chosen):
        chosen.insert(0, (addresses.free_subnet(taken), nothing))
    if ipv6 and not any(whole.size == 16 for whole, _ in chosen):
        chosen.append((addresses.free_subnet6(), nothing))
    return [_complete(whole, one) for whole, one in chosen]


def _complete(whole: Subnet, one: Mapping[str, Any]) -> SubnetRecord:
    gateway = whole.base + 1
    if one["gateway"]:
        gateway, size = addresses.number(one["gateway"])
        if size != whole.size or gateway not in whole:
            raise RlessError(f"--gateway {one['gateway']} is not in the subnet {whole}")
    if one["range"]:
        part = addresses.subnet(one["range"])
        if part.size != whole.size or part.base not in whole or part.count > whole.count:
            raise RlessError(f"--ip-range {part} is not in the subnet {whole}")
    made: SubnetRecord = {
        "subnet": str(whole),
        "gateway": addresses.show(gateway, whole.size),
        "range": one["range"],
    }
    if reserved := one.get("reserved"):
        for address in reserved.values():
            value, size = addresses.number(address)
            if size != whole.size or value not in whole:
                raise RlessError(f"the reserved address {address} is not in the subnet {whole}")
        made["reserved"] = dict(reserved)
    return made


def every() -> Iterator[Network]:
    """Yield all networks that were made, by name."""
    for name in sorted(os.listdir(root())):
        record: NetworkRecord | None = (
            read_json(f"{root()}/{name}") if name.endswith(".json") else None
        )
        if record is not None:
            yield Network(record)


def find(reference: str) -> Network:
    """Return a network by name, id, or unique beginning of an id; `bridge` comes by itself.

    Raises:
        RlessError: there is none, or more than one.
    """
    record: NetworkRecord | None = None
    if is_name(reference or "/"):
        record = read_json(f"{root()}/{reference}.json")
    if record is not None:
        return Network(record)
    if reference == DEFAULT:
        return create(DEFAULT, quiet=True)
    found = [network for network in every() if reference and network.id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RlessError(f"{reference} is the beginning of {len(found)} network ids", exit_code=1)
    raise RlessError(
        f"no such network: {escape(reference)}",
        "`rless network ls` lists them; `create` makes one",
        1,
        kind=NOT_FOUND,
    )


def members(network: Network) -> dict[str, tuple[str, MemberRecord]]:
    """Return the containers that run in a network: id -> (name, its place there)."""
    found = {}
    for container_id in os.listdir(run_records_root()):
        record: RunRecord | None = read_json(f"{run_records_root()}/{container_id}")
        if record is None or not is_owned(record):
            continue
        for place in record.get("networks") or ():
            if place["id"] == network.id:
                container = load(container_id)
                name = container.facts["name"] if container else container_id[:12]
                found[container_id] = (name, place)
    return found


def users(network: Network) -> list[str]:
    """Return the names of all containers that were made for a network, running or not."""
    return [
        container.facts["name"]
        for container in map(load, all_ids())
        if container is not None
        and any(
            one["name"] in (network.name, network.id)
            for one in container.facts.get("request", {}).get("networks", ())
        )
    ]


def remove(network: Network) -> None:
    """Remove a network.

    Raises:
        RlessError: a container runs in it, or it is the one that is always there.
    """
    if network.name == DEFAULT:
        raise RlessError(
            f"{DEFAULT} is a pre-defined network and cannot be removed", exit_code=1, kind=FORBIDDEN
        )
    if inside := members(network):
        names = ", ".join(sorted(name for name, _ in inside.values()))
        raise RlessError(
            f"network {network.name} has containers: {names}",
            "stop or disconnect them first",
            1,
            kind=CONFLICT,
        )
    try:
        os.unlink(f"{root()}/{network.name}.json")
    except FileNotFoundError:
        raise RlessError(f"no such network: {network.name}", exit_code=1, kind=NOT_FOUND) from None
    addresses.forget(network.id)
    events.record("destroy", "network", network.id, name=network.name, type="bridge")
