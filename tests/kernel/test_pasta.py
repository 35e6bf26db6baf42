"""The default network with the real kernel and pasta, on a simulated host."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.request import Port
from rootless.errors import RlessError
from rootless.linux import ns, programs
from rootless.linux.namespace_holder import Holder
from rootless.network import pasta, pasta_options, resolv
from tests.kernel.test_serve import in_a_fork
from tests.lib import fakehost
from tests.lib.fakehost import (
    ADDRESS,
    ADDRESS6,
    GATEWAY,
    GATEWAY6,
    OTHER_ADDRESS,
    OTHER_ADDRESS6,
    Host,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("user namespaces", "ordinary user", "tun", "pasta")

_TIMEOUT = 0.4  # seconds; for what must not arrive
_SO_BINDTODEVICE = 25

# Other versions of pasta to run these tests with: absolute paths, separated by colons.
_VERSIONS = [None, *filter(None, os.environ.get("RLESS_TEST_PASTA", "").split(":"))]


@pytest.fixture(params=_VERSIONS, ids=lambda path: path or "installed")
def on_host(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """Return a function that calls another one on a fake host."""
    if request.param:
        find = programs.find
        others = lambda name: request.param if name == "pasta" else find(name)  # noqa: E731
        monkeypatch.setattr(programs, "find", others)

    def call(function: Callable[[], Any], **facts: Any) -> Any:
        return fakehost.run(Host(**facts), function, tmp_path)

    return call


def listen(address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    return server


def listen_when_valid(address: str) -> socket.socket:
    """Listen on an IPv6 address that was added just now."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return listen(address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def reaches(address: str, port: int, device: str | None = None) -> bool:
    """Tell whether a TCP connection comes about."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(_TIMEOUT)
        if device:
            client.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
        try:
            client.connect((address, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def echo(server: socket.socket) -> Iterator[None]:
    """Answer each connection with what it sends."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def exchange(address: str, port: int, data: bytes) -> bytes:
    """Send all data over TCP while reading as much.

    Without a half-closed connection: the pasta of 2023 is not sound at those.
    """
    answer = b""
    with socket.create_connection((address, port), timeout=5) as client:
        sender = threading.Thread(target=client.sendall, args=[data])
        sender.start()
        while len(answer) < len(data) and (chunk := client.recv(65536)):
            answer += chunk
        sender.join()
    return answer


# -- class 38: the host's loopback ---------------------------------------------------------------


def loopback_attacks(tcp: int, tcp6: int, udp: int, udp6: int) -> dict[str, bool]:
    """Try, in a container, every way to the host's loopback that needs no privilege there."""

    def send(name: str, family: int, address: str, port: int, device: str | None) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
            if device:
                client.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
            client.sendto(name.encode(), (address, port))

    for device in (None, "eth0"):
        where = device or "any"
        send(f"gateway {where}", socket.AF_INET, GATEWAY, udp, device)
        send(f"loopback {where}", socket.AF_INET, "127.0.0.1", udp, device)
        send(f"zero {where}", socket.AF_INET, "0.0.0.0", udp, device)
        send(f"loopback6 {where}", socket.AF_INET6, "::1", udp6, device)
        send(f"mapped {where}", socket.AF_INET6, "::ffff:127.0.0.1", udp, device)
        send(f"forward {where}", socket.AF_INET, resolv.FORWARD, udp, device)
        send(f"gateway6 {where}", socket.AF_INET6, GATEWAY6, udp6, device)
    return {
        "gateway": reaches(GATEWAY, tcp),
        "loopback": reaches("127.0.0.1", tcp),
        "forward": reaches(resolv.FORWARD, tcp),
        "loopback by eth0": reaches("127.0.0.1", tcp, "eth0"),
        "gateway6": reaches(GATEWAY6, tcp6),
        "loopback6": reaches("::1", tcp6),
        "mapped": reaches("::ffff:127.0.0.1", tcp),
        "loopback6 by eth0": reaches("::1", tcp6, "eth0"),
    }


def received(*servers: socket.socket) -> list[str]:
    """Return the datagrams that came."""
    found = []
    while ready := select.select(servers, [], [], _TIMEOUT)[0]:
        found += [server.recv(1000).decode() for server in ready]
    return found


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(address: str, port: int, data: bytes) -> bytes:
    """Return a UDP datagram to an address, with its headers."""
    length = 8 + len(data)
    if ":" in address:
        ends = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in (ADDRESS6, address))
        pseudo = ends + struct.pack("!IHBB", length, 0, 0, socket.IPPROTO_UDP)
        head = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + ends
    else:
        ends = b"".join(map(socket.inet_aton, (ADDRESS, address)))
        pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
        sizes = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 1, 0, 64, socket.IPPROTO_UDP)
        head = sizes + struct.pack("!H", checksum(sizes + ends)) + ends
    udp = struct.pack("!HHH", 4444, port, length)
    return head + udp + struct.pack("!H", checksum(pseudo + udp + data)) + data


def send_raw(address: str, port: int, to: str, device: str = "") -> None:
    """Send a datagram with an address in its header, and another one given to the kernel."""
    packet = datagram(address, port, f"raw {address}".encode())
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        if device:
            raw.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
        with contextlib.suppress(OSError):
            raw.sendto(packet, (to, 0))


def send_frame(address: str, port: int) -> None:
    """Send a datagram as a whole frame."""
    kind = 0x86DD if ":" in address else 0x0800
    packet = datagram(address, port, f"frame {address}".encode())
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as frames:
        frames.bind(("eth0", 0))
        with contextlib.suppress(OSError):  # ENOBUFS: it was dropped
            frames.send(b"\x02" * 12 + struct.pack("!H", kind) + packet)


def send_past_routes(udp: int, udp6: int) -> None:
    """Try, in a container, the ways to the host's loopback that need CAP_NET_RAW there."""
    for address in ("127.0.0.1", "127.9.9.9", "0.0.0.0"):
        send_raw(address, udp, OTHER_ADDRESS)
        send_frame(address, udp)
    for address, port in (("::1", udp6), ("::", udp6), ("::ffff:127.0.0.1", udp)):
        send_raw(address, port, OTHER_ADDRESS6)
        send_frame(address, port)


@pytest.mark.parametrize("guard", ["0", "2"])
def test_security_class_38_raw_packets_stay_inside_by_the_guard(
    on_host: Callable[..., Any], guard: str
) -> None:
    """Without it they reach the host: so what is tried here are attacks."""

    def story() -> Any:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 0))  # 127.9.9.9, too
        udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp6.bind(("::1", 0))
        numbers = [one.getsockname()[1] for one in (udp, udp6)]
        running = pasta.prepare([])
        running.fork(True)
        held = Holder(ns.CLONE_NEWNET, interface=[running.interface, guard, running.mac])
        held.begin_maps(fakehost.own_map())
        running.begin(f"/proc/{held.pid}/ns/net", f"/proc/{held.pid}/ns/user")
        running.wait_ready()

        def inside() -> list[str]:
            held.enter()
            send_past_routes(*numbers)
            # What is not for the loopback passes: once it has come, all before it has.
            send_raw(OTHER_ADDRESS, numbers[0], OTHER_ADDRESS)
            return []

        in_a_fork(inside)
        arrived = received(udp, udp6)
        running.stop(wait=True)
        held.close()
        return arrived

    arrived = on_host(story, ipv6=True)
    assert f"raw {OTHER_ADDRESS}" in arrived
    attacks = set(arrived) - {f"raw {OTHER_ADDRESS}"}
    assert bool(attacks) == (guard == "0"), attacks  # which ones depends on pasta's version


@pytest.mark.parametrize("published", [False, True], ids=["", "published"])
def test_host_loopback_is_not_reached(on_host: Callable[..., Any], published: bool) -> None:
    """Class 38, with our options and our routes."""

    def story() -> Any:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp6.bind(("::1", 0))
        servers = [listen("127.0.0.1"), listen("::1")]
        numbers = [one.getsockname()[1] for one in (*servers, udp, udp6)]

        def inside() -> Any:
            result = loopback_attacks(*numbers)
            send_raw("::ffff:127.0.0.1", numbers[2], "::ffff:127.0.0.1", "eth0")
            return result

        # Published ports open the one way only.
        ports = [Port(None, 8080, 80, "tcp"), Port("::1", 8053, 53, "udp")]
        with fakehost.connected(inside, ports if published else ()) as container:
            reached = container.run()
            arrived = received(udp, udp6)
        return reached, arrived, any(select.select(servers, [], [], 0))

    reached, arrived, accepted = on_host(story, ipv6=True, resolv="nameserver 127.0.0.1\n")
    assert not any(reached.values()), reached
    assert arrived == []
    assert not accepted


def test_plain_pasta_reaches_the_host_loopback(
    on_host: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show that the test above tests something: plain pasta lets the container through."""

    def plain(*_: object, **__: object) -> list[str]:
        path = programs.find("pasta")
        assert path
        return [path, "--config-net", "-q", "-f", "-I", "eth0", "-P", "/proc/self/fd/1"]

    monkeypatch.setattr(pasta, "command", plain)

    def story() -> Any:
        server = listen("127.0.0.1", 7000)
        with fakehost.connected(
            lambda: loopback_attacks(7000, 9, 9, 9), shielded=False
        ) as container:
            result = container.run()
        server.close()
        return result

    reached = on_host(story)
    assert reached["gateway"]
    assert reached["loopback"]


# -- what must work ------------------------------------------------------------------------------


def test_outgoing_connections_work(on_host: Callable[..., Any]) -> None:
    data = os.urandom(3_000_000)

    def story() -> Any:
        server = listen(OTHER_ADDRESS)
        port = server.getsockname()[1]
        with (
            echo(server),
            fakehost.connected(lambda: exchange(OTHER_ADDRESS, port, data) == data) as container,
        ):
            return container.run()

    assert on_host(story)


@pytest.mark.parametrize("facts", [{"ipv6": True}, {"ipv4": False, "ipv6": True}], ids=str)
def test_outgoing_ipv6_works(on_host: Callable[..., Any], facts: dict[str, bool]) -> None:
    def story() -> Any:
        server = listen_when_valid(OTHER_ADDRESS6)
        port = server.getsockname()[1]

        def inside() -> Any:
            deadline = time.monotonic() + 3  # the link-local address needs a second
            while time.monotonic() < deadline:
                if reaches(OTHER_ADDRESS6, port):
                    return True
            return False

        with echo(server), fakehost.connected(inside) as container:
            return container.run()

    assert on_host(story, **facts)


@pytest.mark.parametrize(
    "facts", [{"default_route": False}, {"tunnel": True}], ids=["offline", "tunnel"]
)
def test_hosts_without_a_usual_interface_work(
    on_host: Callable[..., Any], facts: dict[str, bool]
) -> None:
    """Without a default route, or with one by a device without a MAC address (a VPN)."""

    def story() -> Any:
        server = listen(OTHER_ADDRESS)
        port = server.getsockname()[1]
        with echo(server), fakehost.connected(lambda: reaches(OTHER_ADDRESS, port)) as container:
            return container.run()

    assert on_host(story, **facts)


def ask_dns(server: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.sendto(b"query", (server, 53))
        answer, sender = client.recvfrom(100)
        assert sender == (server, 53)
        return answer.decode()


@pytest.mark.parametrize(
    ("nameserver", "inside_address"),
    [("127.0.0.1", resolv.FORWARD), ("127.0.0.53", resolv.FORWARD), (OTHER_ADDRESS, OTHER_ADDRESS)],
)
def test_dns_of_the_host_answers(
    on_host: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    nameserver: str,
    inside_address: str,
) -> None:
    """The host's resolver answers, wherever it listens, at what resolv.conf says."""
    monkeypatch.setattr(resolv, "_RESOLVED_FILE", "/nonexistent")

    def story() -> Any:
        text = resolv.resolv_text(resolv.read_host(), [], [], [], private_network=True)
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((nameserver, 53))

        def serve() -> None:
            query, client = server.recvfrom(100)
            server.sendto(b"answer to " + query, client)

        thread = threading.Thread(target=serve, daemon=True)
        address = text.split()[1]
        with fakehost.connected(lambda: ask_dns(address)) as container:
            thread.start()
            return text, container.run()

    text, answer = on_host(story, resolv=f"nameserver {nameserver}\n")
    assert text == f"nameserver {inside_address}\n"
    assert answer == "answer to query"


def test_own_loopback_works(on_host: Callable[..., Any]) -> None:
    """The routes that keep packets from the host's loopback leave the container's own alone."""

    def inside() -> Any:
        addresses = ["127.0.0.1", "127.1.2.3", "::1", "10.0.2.100"]
        result = []
        for address in addresses:
            server = listen(address)
            result.append(reaches(address, server.getsockname()[1]))
        server = listen("0.0.0.0")
        return [*result, reaches("0.0.0.0", server.getsockname()[1])]

    def story() -> Any:
        with fakehost.connected(inside) as container:
            return container.run()

    assert all(on_host(story))


# -- published ports -----------------------------------------------------------------------------


def listening(protocol: str) -> set[tuple[str, int]]:
    """Return (address, port) of what listens in this network namespace."""
    found = set()
    for name, size in ((protocol, 4), (f"{protocol}6", 16)):
        with open(f"/proc/net/{name}", encoding="ascii") as file:
            for line in list(file)[1:]:
                address, port = line.split()[1].split(":")
                if line.split()[3] not in ("0A", "07"):
                    continue
                raw = bytes.fromhex(address)
                words = struct.unpack(f">{size // 4}I", raw)
                packed = struct.pack(f"<{size // 4}I", *words)
                family = socket.AF_INET if size == 4 else socket.AF_INET6
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def test_published_ports_are_reachable(on_host: Callable[..., Any]) -> None:
    """A connection from the host arrives, and nothing else listens than what was asked for."""

    def story() -> Any:
        ports = [
            Port("127.0.0.1", 8080, 80, "tcp"),
            Port(OTHER_ADDRESS, 8081, 80, "tcp"),
            Port("127.0.0.1", 8080, 53, "udp"),
        ]
        ready_reader, ready_writer = os.pipe()

        def inside() -> Any:
            server = listen("0.0.0.0", 80)
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("0.0.0.0", 53))
            os.write(ready_writer, b"r")
            got = []
            for _ in range(2):
                connection, _ = server.accept()
                got.append(connection.recv(100).decode())
                connection.close()
            got.append(udp.recv(100).decode())
            return got

        def outside() -> None:
            os.read(ready_reader, 1)
            for address, port in (("127.0.0.1", 8080), (OTHER_ADDRESS, 8081)):
                with socket.create_connection((address, port), timeout=3) as client:
                    client.sendall(f"tcp {address}".encode())
                    client.recv(1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"udp", ("127.0.0.1", 8080))

        with fakehost.connected(inside, ports) as container:
            sockets = sorted(listening("tcp")), sorted(listening("udp"))
            thread = threading.Thread(target=outside, daemon=True)
            thread.start()
            got = container.run()
            thread.join()
            return got, *sockets

    got, tcp, udp = on_host(story)
    assert got == ["tcp 127.0.0.1", f"tcp {OTHER_ADDRESS}", "udp"]
    assert tcp == [["127.0.0.1", 8080], [OTHER_ADDRESS, 8081]]
    assert udp == [["127.0.0.1", 8080]]


def test_first_connection_arrives(on_host: Callable[..., Any]) -> None:
    """It arrives in a container that has sent nothing yet: pasta knows where to.

    Without IPv6 the interface is silent when it comes up; pasta learns no address from it.
    """

    def story() -> Any:
        def inside() -> Any:
            server = listen("0.0.0.0", 80)
            os.write(ready_writer, b"r")
            server.settimeout(5)
            connection, _ = server.accept()
            return connection.recv(100).decode()

        def outside() -> None:
            os.read(ready_reader, 1)
            with socket.create_connection((OTHER_ADDRESS, 8081), timeout=5) as client:
                client.sendall(b"hello")
                client.recv(1)

        ready_reader, ready_writer = os.pipe()
        ports = [Port(OTHER_ADDRESS, 8081, 80, "tcp")]
        with fakehost.connected(inside, ports, ipv6=False) as container:
            thread = threading.Thread(target=outside, daemon=True)
            thread.start()
            got = container.run()
            thread.join()
            return got

    assert on_host(story) == "hello"


def test_published_addresses_cover_both_families(on_host: Callable[..., Any]) -> None:
    """All addresses are those of both families; one address is no more than that one."""

    def story() -> Any:
        ports = [Port(None, 8080, 80, "tcp"), Port("::1", 8081, 81, "tcp")]
        ports += [Port("0.0.0.0", 8082, 82, "tcp"), Port("::1", 8080, 80, "udp")]
        with fakehost.connected(ports=ports) as container:
            return sorted(listening("tcp")), sorted(listening("udp")), container.pasta.ports

    tcp, udp, shown = on_host(story, ipv6=True)
    # A socket of all addresses may be one of IPv6 that takes IPv4 too.
    assert {tuple(one) for one in tcp} - {("0.0.0.0", 8080)} == {
        ("::", 8080), ("::1", 8081), ("0.0.0.0", 8082),
    }  # fmt: skip
    assert udp == [["::1", 8080]]
    assert shown == [
        "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "[::1]:8081->81/tcp",
        "0.0.0.0:8082->82/tcp", "[::1]:8080->80/udp",
    ]  # fmt: skip


def serve_forever(server: socket.socket, ready: int) -> None:
    """Answer each connection with the checksum of what it sends up to its line's end, at once."""
    connections: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(server, select.POLLIN)
    os.write(ready, b"r")
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                connection, _ = server.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
            elif data := connections[fd].recv(100):
                if data == b"end":
                    return
                connections[fd].sendall(b"got " + data)
            else:
                poll.unregister(fd)
                connections.pop(fd).close()


@contextlib.contextmanager
def published(
    function: Callable[[], Any], ready: tuple[int, int], *ports: Port
) -> Iterator[Callable[[], Any]]:
    """Run `function` in a container beside the caller, until its answer is asked for."""
    answers: list[Any] = []
    with fakehost.connected(function, ports) as container:
        thread = threading.Thread(target=lambda: answers.append(container.run()), daemon=True)
        thread.start()
        assert os.read(ready[0], 1)

        def answer() -> Any:
            thread.join()
            return answers[0]

        try:
            yield answer
        except BaseException:
            os.kill(container.pid, signal.SIGKILL)  # else its end would be waited for
            raise


@pytest.mark.parametrize("address", ["127.0.0.1", OTHER_ADDRESS], ids=["loopback", "outside"])
def test_flood_of_connections_is_served(on_host: Callable[..., Any], address: str) -> None:
    """A thousand at once, each of them answered.

    On a busy machine pasta loses a first packet inside, which it does not send again: such a
    client is reset, and asks once more.
    """

    def story() -> Any:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        ready = os.pipe()

        def inside() -> None:
            server = socket.create_server(("0.0.0.0", 80), backlog=1024)
            serve_forever(server, ready[1])

        with published(inside, ready, Port(None, 8080, 80, "tcp")) as answer:
            clients = []
            for _ in range(1000):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex((address, 8080))
                clients.append(client)
            for number, client in enumerate(clients):
                client.settimeout(20)
                poll = select.poll()  # select knows no descriptor above 1023
                poll.register(client, select.POLLOUT)
                if poll.poll(20000) and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ConnectionError
                client.sendall(b"%d" % number)

            def ask(number: int) -> bytes:
                try:
                    return clients[number].recv(100)
                except ConnectionResetError:
                    clients[number].close()
                    clients[number] = socket.create_connection((address, 8080), 20)
                    clients[number].sendall(b"%d" % number)
                    return clients[number].recv(100)

            good = sum(ask(number) == b"got %d" % number for number in range(len(clients)))
            clients[0].sendall(b"end")
            answer()
            for client in clients:
                client.close()
            return good

    assert on_host(story) == 1000


def test_big_transfers_work_both_ways(on_host: Callable[..., Any]) -> None:
    """Over a published port, in both directions at once, and after the connection was idle.

    The pasta of 2023 drops packets when both directions are full, and then waits for its timers
    until the connection is reset: on two processors one time in four, also when started by hand.
    """
    data = os.urandom(1 << 20) * 16

    def story() -> Any:
        ready = os.pipe()

        def inside() -> str:
            server = socket.create_server(("0.0.0.0", 80))
            os.write(ready[1], b"r")
            connection, _ = server.accept()
            sender = threading.Thread(target=connection.sendall, args=[data])
            sender.start()
            got = digest_of(connection, len(data))
            sender.join()
            connection.recv(1)
            connection.sendall(b"still here")
            return got

        with (
            published(inside, ready, Port(None, 8080, 80, "tcp")) as answer,
            socket.create_connection((OTHER_ADDRESS, 8080), timeout=30) as client,
        ):
            sender = threading.Thread(target=client.sendall, args=[data])
            sender.start()
            got = digest_of(client, len(data))
            sender.join()
            time.sleep(1)  # longer than the timers of a busy connection
            client.sendall(b"?")
            return got, client.recv(100).decode(), answer()

    expected = hashlib.sha256(data).hexdigest()
    for attempt in range(5):
        try:
            told = on_host(story)
        except RlessError:
            if attempt == 4:
                raise
        else:
            break
    assert told == [expected, "still here", expected]


def digest_of(connection: socket.socket, size: int) -> str:
    hashed = hashlib.sha256()
    while size and (chunk := connection.recv(1 << 16)):
        hashed.update(chunk)
        size -= len(chunk)
    return hashed.hexdigest()


@pytest.mark.parametrize(
    ("address", "port"), [("127.0.0.1", 8053), ("::1", 8053), (OTHER_ADDRESS, 53)]
)
def test_large_datagrams_pass(on_host: Callable[..., Any], address: str, port: int) -> None:
    """9,000 bytes there and back, from the host's loopback and from outside.

    The pasta of 2023 loses answers to the loopback if the port has another number inside.
    """
    data = os.urandom(9000)

    def story() -> Any:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        ready = os.pipe()

        def inside() -> Any:
            server = socket.socket(family, socket.SOCK_DGRAM)
            server.bind(("", port))
            os.write(ready[1], b"r")
            got = b""
            while True:
                said, client = server.recvfrom(20000)
                if said == b"end":
                    return got == data
                got = said
                server.sendto(got[::-1], client)

        with published(inside, ready, Port(None, 8053, port, "udp")) as answer:
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(2)
                back = b""
                for _ in range(5):  # datagrams may get lost
                    client.sendto(data, (address, 8053))
                    try:
                        back = client.recv(20000)
                        break
                    except TimeoutError:
                        pass
                for _ in range(5):
                    client.sendto(b"end", (address, 8053))
            return answer(), back == data[::-1]

    assert on_host(story, ipv6=True) == [True, True]


def test_nothing_listens_without_published_ports(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        def inside() -> Any:
            server = listen("0.0.0.0", 8080)
            time.sleep(1.5)  # "auto" would find it within a second
            server.close()

        with fakehost.connected(inside) as container:
            container.run()
            return sorted(listening("tcp") | listening("udp"))

    assert on_host(story) == []


def test_free_port_is_chosen(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        port = Port(None, None, 80, "tcp")
        with fakehost.connected(ports=[port]):
            return port.host_port, sorted(listening("tcp"))

    number, tcp = on_host(story)
    assert number > 1023
    assert {port for _, port in tcp} == {number}


@pytest.mark.parametrize("taken", ["0.0.0.0", "127.0.0.1", "::", "::1"])
def test_taken_port_is_refused(on_host: Callable[..., Any], taken: str) -> None:
    """A port that any of the addresses has: pasta alone would be content with the rest."""

    def story() -> Any:
        family = socket.AF_INET6 if ":" in taken else socket.AF_INET
        server = socket.socket(family)
        if ":" in taken:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((taken, 8080))
        server.listen()
        with fakehost.connected(ports=[Port(None, 8080, 80, "tcp")]):
            return "started"

    with pytest.raises(RlessError, match=r"port 8080/tcp: it is taken"):
        on_host(story)


def test_port_given_twice_is_refused(on_host: Callable[..., Any]) -> None:
    def story(*ports: Port) -> Callable[[], Any]:
        def body() -> Any:
            with fakehost.connected(ports=ports):
                return "started"

        return body

    for first, second in ((None, None), (None, "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        for addresses in ((first, second), (second, first)):
            twice = [Port(address, 8080, 80, "tcp") for address in addresses]
            with pytest.raises(RlessError, match="port 8080/tcp: it is given twice"):
                on_host(story(*twice))
    both = [Port("127.0.0.1", 8080, 80, protocol) for protocol in ("tcp", "udp")]
    assert on_host(story(*both)) == "started"


def test_foreign_address_and_privileged_port_are_refused(
    on_host: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(port: Port) -> Callable[[], Any]:
        def body() -> Any:
            # The fake host's user may take every port (it has all capabilities): drop that.
            from rootless.linux import caps

            caps.set_capabilities(0, 0, 0)
            with fakehost.connected(ports=[port]):
                return "started"

        return body

    with pytest.raises(RlessError, match="this host does not have the address"):
        on_host(story(Port("203.0.113.9", 8080, 80, "tcp")))
    with pytest.raises(RlessError, match="users may take ports from 1024 on") as caught:
        on_host(story(Port(None, 80, 80, "tcp")))
    assert "net.ipv4.ip_unprivileged_port_start=80" in (caught.value.hint or "")


# -- the process ---------------------------------------------------------------------------------


def test_pasta_inherits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, no variable, not the session of the terminal, not the directory."""
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\n"
        "exec >&2\n"
        "env; echo fds; ls /proc/self/fd; echo cwd; pwd; echo session\n"
        "cut -d' ' -f6 /proc/$$/stat; echo $$; exit 1\n"
    )
    program.chmod(0o755)
    secret = os.memfd_create("secret", 0)
    os.set_inheritable(secret, True)
    monkeypatch.setenv("SECRET", "x")
    running = pasta.Pasta([str(program)])
    running.fork(True)
    running.begin("/netns", "/userns")
    with pytest.raises(RlessError):
        running.wait_ready()
    running.stop(wait=True)
    os.close(secret)
    environment, _, rest = running._said.decode().partition("fds\n")
    fds, _, rest = rest.partition("cwd\n")
    directory, _, session = rest.partition("session\n")
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert names <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    assert fds.split() == ["0", "1", "2", "3"]  # 3 is that of ls
    assert directory == "/\n"
    assert len(set(session.split())) == 1


def test_stop_ends_pasta(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        with fakehost.connected() as container:
            running = container.pasta
            before = os.path.exists(f"/proc/{running.pid}")
            running.stop(wait=True)
            return before, os.path.exists(f"/proc/{running.pid}")

    assert on_host(story) == [True, False]


def _is_gone(pid: int) -> bool:
    """Tell whether a process has ended (it may wait for init to reap it)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def test_pasta_dies_with_its_parent(on_host: Callable[..., Any]) -> None:
    """SIGKILL of the process that keeps the container leaves no pasta, in every version."""

    def story() -> Any:
        with fakehost.container() as container:
            reader, writer = os.pipe()
            keeper = os.fork()
            if keeper == 0:
                running = fakehost.start_pasta(
                    container.netns, container.userns, die_with_parent=True
                )
                running.wait_ready()
                os.write(writer, str(running.pid).encode())
                signal.pause()
                os._exit(0)
            pid = int(os.read(reader, 20))
            before = _is_gone(pid)
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)
            deadline = time.monotonic() + 5
            while not _is_gone(pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            return before, _is_gone(pid)

    assert on_host(story) == [False, True]


def test_pasta_can_be_forked_and_awaited_by_different_processes(
    on_host: Callable[..., Any],
) -> None:
    """The parent of pasta, who starts it and who waits for it can be different processes."""

    def story() -> Any:
        held = pasta.Pasta(pasta_options.command([]))
        keeper = os.fork()
        if keeper == 0:
            held.fork(True)
            signal.pause()
            os._exit(0)
        with fakehost.container() as container:
            held.begin(container.netns, container.userns)
            held.wait_ready()
            pid = held.pid
            running = not _is_gone(pid)
            held.stop()
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)
        return running

    assert on_host(story)


def test_failure_of_pasta_forked_elsewhere_is_seen(on_host: Callable[..., Any]) -> None:
    """It is seen at once, though the process that keeps pasta lives on."""

    def story() -> Any:
        held = pasta.Pasta(pasta_options.command([]))
        keeper = os.fork()
        if keeper == 0:
            held.fork(True)
            signal.pause()
            os._exit(0)
        held.begin("/nothing", "/proc/self/ns/user")
        try:
            held.wait_ready(5)
        except RlessError as error:
            return error.message
        finally:
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)

    assert "pasta" in on_host(story)
    assert "seconds" not in on_host(story)


def test_pasta_can_be_abandoned_before_it_begins(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        held = pasta.Pasta(pasta_options.command([]))
        held.fork(False)
        held.close()
        _, status = os.waitpid(held.pid, 0)
        return os.waitstatus_to_exitcode(status)

    assert on_host(story) == 127


def test_failure_is_reported_in_one_line(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        running = fakehost.start_pasta("/proc/self/nothing", "/proc/self/ns/user")
        try:
            running.wait_ready()
        except RlessError as error:
            return error.message, error.hint
        finally:
            running.stop(wait=True)

    message, hint = on_host(story)
    assert message.startswith("the network could not be made: pasta: ")
    assert "syslog" not in message
    assert "namespace" in message
    assert "--network=host or --network=none" in hint


def test_timeout_is_reported(on_host: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasta, "command", lambda *_: ["/bin/sleep", "30"])

    def story() -> Any:
        running = pasta.Pasta(["/bin/sh"])
        running.fork(True)
        # Never told to begin.
        try:
            keep = os.dup(running._go[1])
            running.wait_ready(timeout=0.1)
        except RlessError as error:
            return error.message
        finally:
            os.close(keep)
            running.stop(wait=True)

    assert on_host(story) == "the network was not ready after 0.1 seconds"


def test_container_has_eth0_once_pasta_is_ready(on_host: Callable[..., Any]) -> None:
    """The container has eth0 with its own address, not the host's, as soon as it is ready."""

    def inside() -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            answer = fcntl.ioctl(control, 0x8915, struct.pack("16s24x", b"eth0"))  # SIOCGIFADDR
        return socket.inet_ntoa(answer[20:24]), sorted(os.listdir("/sys/class/net"))[:0]

    def story() -> Any:
        with fakehost.connected(inside) as container:
            return container.run()[0]

    assert on_host(story) == "10.0.2.100"
