"""A container as a member of networks: how a start joins them, and how that changes later.

    enter     find the hub or make it; fork a process in it, which waits (network.bridge.Joiner)
    join      take addresses, pass names and ports to the hub, make the interfaces
    wait      until the interfaces and the connection to the outside are ready
    fd        the membership: the monitor keeps it open, and everything ends with it

`networks` in the run record lists what a member has: name, id, bridge, interface and the other end
of its pair, outside, ip, ip6, mac, aliases, gateways. `hub` is the [pid, start time] of the process
that holds the networks. Both are true as long as the run record and the hub exist (`why_lost`).
"""

from __future__ import annotations

import os

from rootless.engine import idmap_policy
from rootless.engine.networks import store
from rootless.engine.state import events
from rootless.engine.state.container import containers_root, is_alive, run_records_root, write_json
from rootless.errors import INVALID, RlessError
from rootless.linux.locks import Locked
from rootless.linux.procfs import start_time
from rootless.network import addresses, bridge, firewall, hub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rootless.engine.networks.store import Network
    from rootless.engine.request import RunRequest
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import MemberRecord, RunRecord
    from rootless.linux.idmap import IdMap
    from rootless.network.bridge import Attachment
    from rootless.network.ports import Port

_WAY_OUT_LOCK = "way-out.lock"
_ENTRY = "networks"  # among the run records: no id of a container
# Of a container in one network, in bytes with a NUL each (helpers/networks/networks.h, members.c).
_MOST_NAMES, _NAME_SIZE, _NAMES_SIZE = 50, 253, 1023


def _find(name: str) -> Network:
    try:
        return store.find(name)
    except RlessError as error:
        raise RlessError(f"--network: {error.message}", error.hint) from error


def _shelter_for(request: RunRequest) -> Callable[[int], None]:
    """Return what keeps the hub from the end of the session in which it happens to be made."""

    def shelter(pid: int) -> None:
        if request.manager() in ("auto", "systemd"):
            from rootless.runtime import cgroup

            cgroup.shelter(f"rless-networks-{pid}", "networks of rless", pid)

    return shelter


class Membership:
    """The networks of a container that is being started.

    Attributes:
        fd: the connection that is the membership.
        places: their part of the run record.
        ports: published ones, as `ports.Taken` shows them.
    """

    def __init__(self, request: RunRequest) -> None:
        """Enter the hub; the container need not be known yet.

        Raises:
            RlessError: there is no such network, or no hub can be made.
        """
        self._endpoints = request.networks
        self._networks = [_find(endpoint["name"]) for endpoint in self._endpoints]
        self._outward = any(not network.internal for network in self._networks)
        self._hub = hub.enter(
            idmap_policy.identity(idmap_policy.Subordinate()), self._outward, _shelter_for(request)
        )
        self._joiner = bridge.Joiner(self._hub)
        self.places: list[MemberRecord] = []
        self.ports: list[str] = []
        try:
            self._joiner.fork()
        except BaseException:
            self._hub.close()
            raise

    @property
    def fd(self) -> int:
        """Return the connection that is the membership."""
        return self._hub.fd

    @property
    def process(self) -> list[int]:
        """Return [pid, start time] of the hub."""
        return [self._hub.pid, start_time(self._hub.pid) or 0]

    @property
    def inside(self) -> str:
        """Return the path of the user namespace in which the container's own is made."""
        return self._hub.userns

    def write_maps(self, pid: int, ids: IdMap) -> None:
        """Write the id maps of the container's user namespace, as `idmap.write_maps`."""
        self._joiner.write_maps(pid, ids)

    def take_addresses(self, container: Container) -> None:
        """Take addresses in all networks; `places` has them then.

        Raises:
            RlessError: an address is another one's, or none is free.
        """
        for network, endpoint in zip(self._networks, self._endpoints, strict=True):
            place = take_place(network, container.id, endpoint)
            place["interface"] = place["interface"] or free_interface(self.places, self._endpoints)
            self.places.append(place)

    def for_files(self) -> tuple[list[str], list[str], bool]:
        """Return as `for_files` of this module does."""
        return for_files(self.places)

    def join(
        self, container: Container, hostname: str, servers: Sequence[str], ports: Sequence[Port]
    ) -> None:
        """Tell the hub who this is, and have the interfaces made.

        Args:
            servers: of --dns.
            ports: to be published.

        Raises:
            RlessError: a port is taken, or the hub is full.
        """
        for network, place in zip(self._networks, self.places, strict=True):
            join(self._hub, network, container, place, hostname)
        if servers:
            words = [addresses.packed(server).hex() for server in servers]
            _check(self._hub.call("S", *words), "name servers")
        if ports:
            self._publish(ports)
        pairs = zip(self._networks, self.places, strict=True)
        self._joiner.connect([attachment(network, place) for network, place in pairs])

    def _publish(self, ports: Sequence[Port]) -> None:
        from rootless.network.ports import take

        taken = take(ports)
        try:
            self.ports = taken.shown
            for number, fd in taken.sockets():
                _check(self._hub.call("P", str(number), fds=[fd]), f"port {number}")
        finally:
            taken.close()

    def see_way_out(self) -> None:
        """Ensure that there is a connection to the outside, and make one that has ended anew.

        Raises:
            RlessError: there is none.

        Where it runs: in the host's network.
        """
        if self._outward and self._hub.no_way_out():
            see_way_out(self._hub)

    def wait_ready(self) -> None:
        """Wait until the container is connected, and the connection to the outside is ready.

        Raises:
            RlessError: why it is not.
        """
        self._joiner.wait_ready()
        if self._outward and (why := self._hub.wait_for_way_out()):
            raise no_way_out(why)

    def close(self) -> None:
        """Close the membership, unless the monitor has taken it over."""
        self._joiner.close()
        self._hub.close()


def hub_of(record: RunRecord) -> hub.Hub | None:
    """Return a connection to the hub that a running member is in; None: that was killed.

    A later start may have made another one, which has no power over this member.
    """
    noted = record.get("hub") or (0, 0)
    if not is_alive(noted):
        return None
    found = hub.connect()
    if found is not None and found.pid != noted[0]:
        found.close()
        return None
    return found


def why_lost(record: RunRecord) -> tuple[str, bool]:
    """Return (what a running member has lost and why, whether its ports are among that)."""
    the_hub = hub_of(record)
    if the_hub is None:
        return f"the network is lost: {hub.TITLE} has ended", True
    try:
        if any(place["bridge"].startswith(firewall.OUTWARD) for place in record["networks"]):
            why = the_hub.no_way_out()
            return (f"the way out is lost: {why}" if why else ""), False
        return "", False
    finally:
        the_hub.close()


def for_files(places: Sequence[MemberRecord]) -> tuple[list[str], list[str], bool]:
    """Return (addresses, name servers, whether there is a way out) of a member.

    The name servers are its gateways, the hub's.
    """
    own = [address for place in places for address in (place["ip"], place["ip6"])]
    gateways = [gateway for place in places for gateway in place["gateways"]]
    way_out = any(place["bridge"].startswith(firewall.OUTWARD) for place in places)
    return [address for address in own if address], gateways, way_out


def _check(code: int, what: str) -> None:
    if code:
        raise RlessError(f"the networks cannot take more {what}: {os.strerror(code)}")


def see_way_out(the_hub: hub.Hub) -> None:
    """Wait until the hub has a way out; one whose pasta has ended gets another one.

    Raises:
        RlessError: there is none.
    """
    if not the_hub.wait_for_way_out():
        return
    with Locked(f"{hub.directory()}/{_WAY_OUT_LOCK}"):
        if the_hub.wait_for_way_out():
            hub.restore_way_out(the_hub, lambda pasta: _note(the_hub, pasta))
        why = the_hub.wait_for_way_out()
    if why:
        raise no_way_out(why)


def no_way_out(why: str) -> RlessError:
    """Return the error that there is none."""
    return RlessError(
        f"the networks have no way out: {why}", "see `rless doctor`, or use --network=host"
    )


def _note(the_hub: hub.Hub, pasta: list[int]) -> None:
    """Note whose pasta it is, as a run record: `reconcile` ends it if the hub is killed."""
    owner = [the_hub.pid, start_time(the_hub.pid) or 0]
    record: RunRecord = {"owner": owner, "pasta": pasta}
    write_json(f"{run_records_root()}/{_ENTRY}", record)


def take_place(network: Network, container_id: str, endpoint: Mapping[str, Any]) -> MemberRecord:
    """Take addresses in a network; return what is noted of this."""
    requested = {}
    for key, size in (("ip", 4), ("ip6", 16)):
        if endpoint.get(key):
            requested[size] = addresses.number(endpoint[key])[0]
            if size not in {whole.size for whole, _, _ in network.ranges}:
                raise RlessError(
                    f"network {network.name} has no IPv6 addresses", "make one with --ipv6"
                )
    given = addresses.take(
        network.id,
        container_id,
        network.ranges,
        requested,
        _is_live,
        _exists,
        network.reserved,
    )
    ip, ip6 = (addresses.show(given[size], size) if size in given else "" for size in (4, 16))
    mac = endpoint.get("mac") or _mac(given)
    return {
        "name": network.name,
        "id": network.id,
        "bridge": network.bridge,
        "interface": endpoint.get("interface") or "",
        "outside": f"v{os.urandom(6).hex()}",
        "ip": ip,
        "ip6": ip6,
        "mac": mac,
        "aliases": list(endpoint.get("aliases") or ()),
        "links": [list(link) for link in endpoint.get("links") or ()],
        "gateways": [one["gateway"] for one in network.record["subnets"]],
        "prefixes": {str(whole.size): whole.prefix for whole, _, _ in network.ranges},
    }


def free_interface(
    places: Sequence[MemberRecord], endpoints: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the first of eth0, eth1, ... that no place has, and no other wants."""
    used = {one["interface"] for one in places} | {one.get("interface") for one in endpoints}
    return next(name for name in (f"eth{n}" for n in range(len(used) + 1)) if name not in used)


def _mac(given: dict[int, int]) -> str:
    # Of the address, as Docker's: whoever has the address next is the same to its neighbours.
    low = given.get(4, given.get(16, 0)) & 0xFFFFFFFF
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + low.to_bytes(4, "big"))


def _is_live(container_id: str) -> bool:
    return os.path.lexists(f"{run_records_root()}/{container_id}")


def _exists(container_id: str) -> bool:
    return os.path.lexists(f"{containers_root()}/{container_id}")


def attachment(network: Network, place: MemberRecord) -> Attachment:
    """Return what the interfaces of a place are made by."""
    gateways, prefixes = [b"", b""], [0, 0]
    for whole, _, gateway in network.ranges:
        gateways[whole.size == 16] = gateway.to_bytes(whole.size, "big")
        prefixes[whole.size == 16] = whole.prefix
    made = bridge.Attachment(
        network.bridge,
        (gateways[0], gateways[1]),
        (prefixes[0], prefixes[1]),
        (addresses.packed(place["ip"]), addresses.packed(place["ip6"])),
        bytes.fromhex(place["mac"].replace(":", "")),
    )
    made.mtu = network.mtu
    made.internal = network.internal
    made.interface, made.outside = place["interface"], place["outside"]
    return made


def names_of(
    container: Container, place: MemberRecord, hostname: str, name: str | None = None
) -> list[str]:
    """Return the names that a member is found by; the first is what its address is called.

    Behind them are its links, as ALIAS>NAME: names of others for this member alone.

    Args:
        name: of the container, if it is about to get another one.

    Raises:
        RlessError: they are more than the hub takes.
    """
    names = [name or container.facts["name"], *place["aliases"], container.id[:12], hostname]
    for reference, alias in place.get("links", ()):
        is_id = len(reference) == 64 and not set(reference) - set("0123456789abcdef")
        names.append(f"{alias}>{reference[:12] if is_id else reference}")
    names = list(dict.fromkeys(name for name in names if name))
    sizes = [len(name.encode()) for name in names]
    if len(sizes) > _MOST_NAMES or max(sizes) > _NAME_SIZE or sum(sizes) + len(sizes) > _NAMES_SIZE:
        raise RlessError(
            f"container {container.facts['name']} has too many names in network {place['name']}",
            f"aliases and links: at most {_MOST_NAMES}, of {_NAME_SIZE} bytes each (those of a link"
            f" together), {_NAMES_SIZE} in all",
            kind=INVALID,
        )
    return names


def join(
    the_hub: hub.Hub,
    network: Network,
    container: Container,
    place: MemberRecord,
    hostname: str,
) -> None:
    """Tell the hub that a container is in a network, and what it is called there.

    Raises:
        RlessError: the hub is full, or the container is in that network.
    """
    names = names_of(container, place, hostname)
    own = attachment(network, place)
    words = bridge.join_words(container.id, own, (network.id, network.name), names)
    code = the_hub.call(*words)
    if code:
        raise RlessError(f"cannot join network {network.name}: {os.strerror(code)}", exit_code=1)
    events.record(
        "connect", "network", network.id, container=container.id, name=network.name, type="bridge"
    )
