"""Connect an existing container to a network, or disconnect it; it may be running.

The networks are kept in the container's request, for later starts. A running container changes at
once: the hub gets a message, the interface is made or removed, and /etc/hosts and resolv.conf are
rewritten in place.
"""

from __future__ import annotations

from rootless.engine.manage import update
from rootless.engine.networks import attachment, store
from rootless.engine.request import RunRequest
from rootless.engine.spec import etc_files
from rootless.engine.state import container as containers
from rootless.engine.state.container import find, is_alive
from rootless.errors import RlessError
from rootless.network import addresses, bridge, firewall, interfaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rootless.engine.networks.store import Network
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import MemberRecord, RunRecord


def connect(name: str, reference: str, endpoint: dict[str, Any]) -> None:
    """Connect a container to a network.

    Args:
        endpoint: options, all optional: "ip", "ip6", "mac", "aliases", "interface".

    Raises:
        RlessError: it is in that network, or cannot be in one.
    """
    network, container = store.find(name), find(reference)
    update.change(container, [], lambda: _connect(network, container, endpoint))


def disconnect(name: str, reference: str, force: bool = False) -> None:
    """Disconnect a container from a network.

    Args:
        force: it is no error if the container is not in the network.

    Raises:
        RlessError: it is not in that network.
    """
    network, container = store.find(name), find(reference)
    endpoints = container.facts["request"].get("networks", [])
    if not any(_is_of(endpoint, network) for endpoint in endpoints):
        if force:
            return
        raise RlessError(
            f"container {container.facts['name']} is not in network {network.name}", exit_code=1
        )
    update.change(container, [], lambda: _disconnect(network, container))


def _is_of(endpoint: dict[str, Any], network: Network) -> bool:
    return endpoint["name"] in (network.name, network.id)


def _connect(network: Network, container: Container, endpoint: dict[str, Any]) -> None:
    request = container.facts["request"]
    endpoints = request.get("networks", [])
    mode = request.get("network") or "pasta"
    name = container.facts["name"]
    if not endpoints and mode != "none":
        raise RlessError(
            f"container {name} cannot join a network: it was made with --network={mode}",
            "create it with --network NETWORK; such a container can join more",
            1,
        )
    if any(_is_of(other, network) for other in endpoints):
        raise RlessError(f"container {name} is in network {network.name} already", exit_code=1)
    record = container.run_record()
    runs = is_alive(record.get("monitor"))
    if runs and "networks" not in record:
        raise RlessError(
            f"container {name} runs without a network and cannot join one now",
            "stop it first, then connect and start it",
            1,
        )
    endpoint = {**endpoint, "name": network.name}
    if mac := container.facts.get("macs", {}).get(network.id):
        endpoint.setdefault("mac", mac)
    if runs:
        places = record["networks"]
        place = attachment.take_place(network, container.id, endpoint)
        place["interface"] = place["interface"] or attachment.free_interface(places)
        try:
            _attach(network, container, place, record)
        except BaseException:
            addresses.give_back(network.id, container.id)
            raise
        places = [*places, place]
        container.update_run_record(networks=places)
        _write_files(container, places)
    elif "ip" in endpoint or "ip6" in endpoint:
        attachment.take_place(network, container.id, endpoint)  # nobody else gets it
    _store(container, [*endpoints, endpoint])


def _attach(network: Network, container: Container, place: MemberRecord, record: RunRecord) -> None:
    the_hub = attachment.hub_of(record)
    if the_hub is None:
        raise RlessError(
            f"the network of container {container.facts['name']} was killed",
            f"rless restart {container.facts['name']}",
            1,
        )
    joiner = bridge.Joiner(the_hub)
    try:
        joiner.fork()
        attachment.join(the_hub, network, container, place, _hostname(container))
        joiner.adopt(f"/proc/{record['monitor'][0]}/ns/net")
        joiner.connect([attachment.attachment(network, place)])
        joiner.wait_ready()
        if not network.internal:
            attachment.see_way_out(the_hub)
    except BaseException:
        the_hub.call("L", container.id, network.bridge)
        raise
    finally:
        joiner.close()
        the_hub.close()


def _disconnect(network: Network, container: Container) -> None:
    record = container.run_record()
    places = record.get("networks") or []
    place = next((one for one in places if one["id"] == network.id), None)
    if place is not None and is_alive(record.get("monitor")):
        the_hub = attachment.hub_of(record)
        if the_hub is not None:  # killed: nothing is connected any more
            try:
                the_hub.call("L", container.id, place["bridge"])
            finally:
                the_hub.close()
            netns = f"/proc/{record['monitor'][0]}/ns/net"
            interfaces.remove(netns, place["interface"], _way_out(places, place))
        places = [one for one in places if one is not place]
        container.update_run_record(networks=places)
        _write_files(container, places)
    addresses.give_back(network.id, container.id)
    endpoints = container.facts["request"]["networks"]
    mac = next((one["mac"] for one in endpoints if _is_of(one, network) and one.get("mac")), None)
    if mac:  # compose 1.29 connects each container anew before it starts
        container.update_facts(macs={**container.facts.get("macs", {}), network.id: mac})
    _store(container, [endpoint for endpoint in endpoints if not _is_of(endpoint, network)])


def _way_out(places: list[MemberRecord], left: MemberRecord) -> list[str]:
    """Return the gateways of the first network with a way out, of those that are left."""
    for place in places:
        if place is not left and place["bridge"].startswith(firewall.OUTWARD):
            return list(place["gateways"])
    return []


def check_name(container: Container, name: str) -> None:
    """Check that a container can have another name in the networks that it runs in.

    Raises:
        RlessError: its names would be too long there.
    """
    for place in container.run_record().get("networks") or ():
        attachment.names_of(container, place, _hostname(container), name)


def rename(container: Container) -> None:
    """Tell the hub the names of a container that has got another one, if it runs."""
    record = container.run_record()
    if not record.get("networks") or (the_hub := attachment.hub_of(record)) is None:
        return
    try:
        for place in record["networks"]:
            names = attachment.names_of(container, place, _hostname(container))
            the_hub.call("N", container.id, place["bridge"], *names)
    finally:
        the_hub.close()


def _hostname(container: Container) -> str:
    return container.facts["request"].get("hostname") or ""


def _store(container: Container, endpoints: list[dict[str, Any]]) -> None:
    request = {**container.facts["request"], "networks": endpoints}
    request["network"] = endpoints[0]["name"] if endpoints else "none"
    container.update_facts(request=request, network=request["network"])


def _write_files(container: Container, places: list[MemberRecord]) -> None:
    """Write hosts and resolv.conf of a container that runs, in place."""
    request = RunRequest.from_data(container.facts["request"])
    own, servers, way_out = attachment.for_files(places)
    hostname = request.hostname or container.id[:12]
    files = etc_files.write(
        request,
        container.directory,
        hostname,
        addresses=own,
        servers=servers,
        way_out=way_out,
    )
    for one in (container, *_sharing(container)):
        monitor = one.run_record().get("monitor")
        if monitor is not None and is_alive(monitor):
            etc_files.show_again(one.directory, monitor[0], files.values())


def _sharing(container: Container) -> Iterator[Container]:
    """Yield the containers whose network is that of another, as far as they can be read."""
    for identifier in containers.all_ids():
        other = containers.load(identifier)
        network = (other.facts["request"].get("network") or "") if other is not None else ""
        if other is None or not network.startswith("container:"):
            continue
        try:
            if find(network.partition(":")[2]).id == container.id:
                yield other
        except RlessError:
            continue  # that one is gone
