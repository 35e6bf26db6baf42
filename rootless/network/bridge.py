"""A container in bridge networks: a pair of virtual interfaces for each, made from the hub.

The command forks the process that makes them before the container's namespaces exist. That process
joins the hub. It writes the id maps of the container's user namespace, which is a child of the
hub's, so that no other process may write them and newuidmap is not needed. It connects the networks
once it has received the addresses.
"""

from __future__ import annotations

import os
import select

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux import idmap, ns
from rootless.linux.network import link, netlink, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rootless.linux.idmap import IdMap
    from rootless.network.hub import Hub

_TIMEOUT = 20.0  # seconds


class Attachment:
    """A container's place in one network. Addresses are bytes, of 4 or 16; b"": none.

    Attributes:
        bridge: the name of its bridge in the hub.
        internal: the network has no way out, and is no default route.
        gateways, prefixes: of IPv4 and IPv6.
        addresses: the container's own, of IPv4 and IPv6.
        interface: its name in the container; outside: that of the other end, on the bridge.
    """

    __slots__ = (
        "addresses",
        "bridge",
        "gateways",
        "interface",
        "internal",
        "mac",
        "mtu",
        "outside",
        "prefixes",
    )

    def __init__(
        self,
        bridge: str,
        gateways: tuple[bytes, bytes],
        prefixes: tuple[int, int],
        addresses: tuple[bytes, bytes],
        mac: bytes,
    ) -> None:
        self.bridge = bridge
        self.gateways = gateways
        self.prefixes = prefixes
        self.addresses = addresses
        self.mac = mac
        self.mtu = 1500
        self.internal = False
        self.interface = ""
        self.outside = ""


def join_words(
    container_id: str, attachment: Attachment, network: tuple[str, str], names: Sequence[str]
) -> list[str]:
    """Return the message by which a container joins a network (helpers/networks/main.c).

    Args:
        network: its id and name.
        names: of the container.
    """
    gateways = [
        f"{gateway.hex()}/{prefix}" if gateway else ""
        for gateway, prefix in zip(attachment.gateways, attachment.prefixes, strict=True)
    ]
    addresses = [address.hex() for address in attachment.addresses]
    internal = "1" if attachment.internal else "0"
    words = ["J", container_id, attachment.bridge, *network, internal]
    return [*words, attachment.outside, *gateways, *addresses, *names]


def connect(attachments: Sequence[Attachment], netns_fd: int, hub_fd: int) -> None:
    """Connect a network namespace to the bridges, which are made where they are not there yet.

    Another container may do the same at the same time. Each step succeeds if it has been done
    already, so no container waits for another.

    Where it runs: in a process of the hub, which it leaves in the container's network.
    """
    for one in attachments:
        ns.setns(hub_fd, ns.CLONE_NEWNET)
        netlink.call([link.bridge(one.bridge, _bridge_mac(one), one.mtu)])
        number = link.index(one.bridge)
        pairs = zip(one.gateways, one.prefixes, strict=True)
        requests = [link.address(number, address, size) for address, size in pairs if address]
        pair = link.pair(one.outside, number, one.mtu, one.interface, netns_fd, one.mac)
        requests.append(pair)
        netlink.call(requests)
        ns.setns(netns_fd, ns.CLONE_NEWNET)
        inside = link.index(one.interface)
        _refuse_advertisements(one.interface)
        pairs = zip(one.addresses, one.prefixes, strict=True)
        requests = [link.up(inside)]
        requests += [link.address(inside, own, size) for own, size in pairs if own]
        if not one.internal:
            own_gates = zip(one.gateways, one.addresses, strict=True)
            requests += [route.default(gateway) for gateway, own in own_gates if gateway and own]
        netlink.call(requests)


def _refuse_advertisements(interface: str) -> None:
    """Refuse router advertisements of other members (CVE-2020-13401)."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra", "w", encoding="utf-8") as file:
            file.write("0")
    except FileNotFoundError:
        pass  # no IPv6


def _bridge_mac(attachment: Attachment) -> bytes:
    # Of its own, or it would change with the members; the second bit: made up locally.
    return b"\x02\x42" + (attachment.gateways[0] or attachment.gateways[1][-4:])


class Joiner:
    """The process that connects a container.

    `fork` starts it. It may `write_maps` of a container that is being made, then it must `connect`.
    `wait_ready` waits for the result, and `close` ends it.
    """

    __slots__ = ("_commands", "_heard", "_hub", "_pid", "_said")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._commands = self._said = -1
        self._pid = 0
        self._heard = b""

    def fork(self) -> None:
        """Start it; it waits for commands."""
        there, here = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(there[1])
                os.close(here[0])
                idmap.answer(here[1], self._run, there[0], here[1])
            finally:
                os._exit(70)
        os.close(there[0])
        os.close(here[1])
        self._commands, self._said = there[1], here[0]

    def _run(self, commands: int, said: int) -> None:
        enter(self._hub)
        hub_fd = _open_netns("/proc/self/ns/net")
        netns_fd = -1
        attachments: list[Attachment] | None = None
        with open(commands, encoding="utf-8") as stream:
            for line in stream:
                command = jsontext.loads(line)
                if command[0] == "maps":
                    idmap.write_maps(command[1], idmap.IdMap(command[2], command[3], ""))
                    # Before it is told so: it may end as soon as others are in its namespaces.
                    netns_fd = _open_netns(f"/proc/{command[1]}/ns/net")
                    os.write(said, b"\n")
                elif command[0] == "network":
                    netns_fd = _open_netns(command[1])
                else:
                    attachments = [_from_data(data) for data in command[1]]
                if netns_fd >= 0 and attachments is not None:
                    return connect(attachments, netns_fd, hub_fd)
        os._exit(0)  # the start was given up

    def _send(self, *words: object) -> None:
        try:
            os.write(self._commands, jsontext.dumps(words).encode() + b"\n")
        except BrokenPipeError:
            pass  # it has failed: `wait_ready` tells

    def write_maps(self, pid: int, ids: IdMap) -> None:
        """Have it write the id maps of a waiting process; that one's network is to be connected.

        Raises:
            RlessError: they could not be written.
        """
        self._send("maps", pid, ids.uids, ids.gids)
        self._heard = os.read(self._said, 1)
        if self._heard != b"\n":
            self.wait_ready()  # the beginning of why
        self._heard = b""

    def adopt(self, netns: str) -> None:
        """Select the network namespace that is to be connected, by its path."""
        self._send("network", netns)

    def connect(self, attachments: Sequence[Attachment]) -> None:
        """Connect the network namespace that `write_maps` or `adopt` has selected."""
        self._send("connect", [_to_data(one) for one in attachments])

    def wait_ready(self) -> None:
        """Wait until the networks are connected.

        Raises:
            RlessError: what failed.
        """
        poll = select.poll()
        poll.register(self._said, select.POLLIN)
        if not poll.poll(1000 * _TIMEOUT):
            raise RlessError(f"the network was not ready after {_TIMEOUT:g} seconds")
        with open(self._said, encoding="utf-8") as stream:
            self._said = -1
            text = self._heard.decode() + stream.read()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        idmap.take_answer(text, status)

    def close(self) -> None:
        """End it, if it is still there."""
        for fd in (self._commands, self._said):
            if fd >= 0:
                os.close(fd)
        self._commands = self._said = -1
        if self._pid:
            os.waitpid(self._pid, 0)  # it reads the end of the pipe, or has done
            self._pid = 0


def _open_netns(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _to_data(one: Attachment) -> dict[str, Any]:
    data = {name: getattr(one, name) for name in Attachment.__slots__}
    data["mac"] = one.mac.hex()
    for name in ("gateways", "addresses"):
        data[name] = [value.hex() for value in data[name]]
    return data


def _from_data(data: dict[str, Any]) -> Attachment:
    gateways, addresses = (
        (bytes.fromhex(four), bytes.fromhex(six))
        for four, six in (data["gateways"], data["addresses"])
    )
    mac = bytes.fromhex(data["mac"])
    one = Attachment(data["bridge"], gateways, tuple(data["prefixes"]), addresses, mac)
    for name in ("mtu", "internal", "interface", "outside"):
        setattr(one, name, data[name])
    return one


def enter(hub: Hub) -> None:
    """Join the hub: all capabilities there, and over the namespaces made inside it.

    Raises:
        RlessError: it has just ended.
    """
    try:
        userns = os.open(hub.userns, os.O_RDONLY | os.O_CLOEXEC)
        netns = os.open(hub.netns, os.O_RDONLY | os.O_CLOEXEC)
        ns.setns(userns, ns.CLONE_NEWUSER)
        ns.setns(netns, ns.CLONE_NEWNET)
    except OSError as error:
        raise RlessError(f"the networks have just ended: {error.strerror}") from error
    os.close(userns)
    os.close(netns)
