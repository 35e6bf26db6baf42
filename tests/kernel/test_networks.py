"""rless-networks: DNS by UDP and TCP, and published ports."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from rootless.linux import process
from rootless.linux.network import link, netlink
from rootless.network import bridge, hub
from tests.kernel.test_serve import in_a_fork
from tests.lib.compiled import sanitized_program
from tests.lib.faults import children
from tests.lib.hub import AAAA, PTR, TXT, A, Member, question, read

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "compiler")

GATEWAY = "10.9.1.1"
Make = Callable[..., Member]


@pytest.fixture(params=["", "sanitized"])
def member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Make]:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "s"))
    if request.param:
        program = str(sanitized_program("helpers/networks"))
        others = process.own_program
        monkeypatch.setattr(
            process,
            "own_program",
            lambda name: program if name == "rless-networks" else others(name),
        )
    made: list[Member] = []

    def make(number: int, *names: str, bridges: tuple[str, ...] = ("br-one",)) -> Member:
        made.append(Member(number, names, bridges))
        return made[-1]

    yield make
    for one in made:
        one.end()
    deadline = time.monotonic() + 30
    while (left := hub.connect()) is not None:
        left.close()
        assert time.monotonic() < deadline, "the hub stays"
        time.sleep(0.01)
    assert not os.path.lexists(f"{hub.directory()}/networks")


def ask(query: bytes, server: str = GATEWAY) -> bytes:
    """Ask by UDP, three times as a resolver does; b"": no answer."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect((server, 53))
        for _ in range(3):  # a network's first datagram may come before its bridge passes it on
            client.send(query)
            try:
                return client.recv(65535)
            except TimeoutError:
                continue
        return b""


def look_up(name: str, kind: int = A, server: str = GATEWAY) -> tuple[int, list[str]]:
    code, found = read(ask(question(name, kind), server))
    return code, [data.hex() for data in found]


def ask_tcp(query: bytes, pieces: int = 1, server: str = GATEWAY) -> bytes:
    with socket.create_connection((server, 53), 5) as client:
        data = struct.pack(">H", len(query)) + query
        size = len(data) // pieces + 1
        for at in range(0, len(data), size):
            client.sendall(data[at : at + size])
            time.sleep(0.01 if pieces > 1 else 0)
        return receive(client)


def receive(client: socket.socket) -> bytes:
    data = b""
    while len(data) < 2 or len(data) < 2 + struct.unpack_from(">H", data)[0]:
        chunk = client.recv(65536)
        if not chunk:
            return b""
        data += chunk
    return data[2:]


# -- names of members ----------------------------------------------------------------------------


def test_names_aliases_and_ids_resolve_in_both_families(member: Make) -> None:
    one, two = member(5, "web", "www.shop", "0123456789ab"), member(6, "db")
    for name in ("web", "WEB", "www.shop", "0123456789ab", "web."):
        assert two.run(look_up, name) == [0, ["0a090105"]]
    assert two.run(look_up, "web", AAAA) == [0, [one.address6(1, 5).hex()]]
    assert two.run(look_up, "web", A, "fd09:1::1") == [0, ["0a090105"]]


def test_creator_may_end_once_the_network_has_its_maps(
    member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that connects it has found it by then, however slow it is."""
    own, write = os.getpid(), os.write

    def slowly(fd: int, data: bytes) -> int:
        done = write(fd, data)
        if os.getpid() != own and data == b"\n":
            time.sleep(0.5)
        return done

    connect = bridge.Joiner.connect

    def end_it_first(joiner: bridge.Joiner, places: list[bridge.Attachment]) -> None:
        made = children(own)[-1]
        kept.append(os.open(f"/proc/{made}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        os.kill(made, signal.SIGKILL)
        os.waitpid(made, 0)
        connect(joiner, places)

    kept: list[int] = []
    monkeypatch.setattr(os, "write", slowly)
    monkeypatch.setattr(bridge.Joiner, "connect", end_it_first)
    member(2, "web").pid = 0
    os.close(kept.pop())


def test_names_end_with_the_member(member: Make) -> None:
    one, two = member(5, "web"), member(6, "db")
    assert two.run(look_up, "web")[0] == 0
    one.end()
    deadline = time.monotonic() + 30
    while two.run(look_up, "web")[0] != 3:
        assert time.monotonic() < deadline


def test_addresses_resolve_to_names(member: Make) -> None:
    member(5, "web", "alias")
    two = member(6, "db")
    wire = b"\x03web\x00".hex()
    assert two.run(look_up, "5.1.9.10.in-addr.arpa", PTR) == [0, [wire]]
    digits = ".".join(reversed(two.address6(1, 5).hex()))
    assert two.run(look_up, f"{digits}.ip6.arpa", PTR) == [0, [wire]]


def test_other_record_types_of_a_known_name_are_empty(member: Make) -> None:
    one = member(5, "web")
    assert one.run(look_up, "web", TXT) == [0, []]


def test_shared_name_rotates_between_members(member: Make) -> None:
    one = member(5, "a", "all")
    member(6, "b", "all")
    answers = [one.run(look_up, "all")[1] for _ in range(6)]
    assert all(sorted(found) == ["0a090105", "0a090106"] for found in answers)
    assert {found[0] for found in answers} == {"0a090105", "0a090106"}


def test_names_of_other_networks_are_unknown(member: Make) -> None:
    member(5, "web")
    both = member(6, "both", bridges=("br-one", "br-two"))
    other = member(7, "other", bridges=("br-two",))
    assert other.run(look_up, "web", A, "10.9.2.1") == [3, []]
    assert other.run(look_up, "both", A, "10.9.2.1") == [0, ["0a090206"]]
    # One of both is told of both, by whichever gateway it asks.
    assert both.run(look_up, "web", A, "10.9.2.1") == [0, ["0a090105"]]
    assert both.run(look_up, "other", A, "10.9.1.1") == [0, ["0a090207"]]


def test_unknown_single_label_name_is_not_forwarded(member: Make) -> None:
    one = member(5, "web")
    began = time.monotonic()
    assert one.run(look_up, "nobody") == [3, []]
    assert time.monotonic() - began < 1  # nobody else was asked


def test_internal_network_forwards_no_queries(member: Make) -> None:
    one = member(5, "web", bridges=("in-three",))
    assert one.run(look_up, "www.example.org", A, "10.9.3.1") == [3, []]
    assert one.run(look_up, "web", A, "10.9.3.1") == [0, ["0a090305"]]


def test_dns_servers_of_an_internal_network_are_those_in_it(member: Make) -> None:
    """--dns leads neither to the host, nor into networks that the member is not in."""
    one, other = member(5, "web", bridges=("in-three",)), member(6, "db")
    for outside in (bytes([127, 0, 0, 1]), other.address(1, 6)):
        assert one.hub.call("S", outside.hex()) == 0
        assert one.run(look_up, "www.example.org", A, "10.9.3.1") == [3, []]
    server = member(7, "dns", bridges=("in-three",))
    assert one.hub.call("S", "7f000001", server.address(3, 7).hex()) == 0
    with serving(server, serve_names):
        found = one.run(look_up_until_answered, "www.example.org", "10.9.3.1")
    assert found == ["c0000207"]


def test_rename_changes_the_names(member: Make) -> None:
    one = member(5, "web")
    assert one.hub.call("N", one.id, "br-one", "neu") == 0
    assert one.run(look_up, "neu")[0] == 0
    assert one.run(look_up, "web")[0] == 3


def test_link_is_a_name_for_its_member_alone_and_goes_before_names(member: Make) -> None:
    one = member(2, "web", "data>db2", "near>db2")
    near = member(3, "near").address(1, 3).hex()
    assert one.run(look_up, "data") == [3, []]  # db2 has not started
    assert one.run(look_up, "near") == [0, [near]]
    two = member(4, "db2", "db")
    for name in ("data", "DATA", "near"):
        assert one.run(look_up, name) == [0, [two.address(1, 4).hex()]]
    assert two.run(look_up, "data") == [3, []]
    assert two.run(look_up, "near") == [0, [near]]
    for name in ("data>db2", "data>db", "dat", "datas"):
        assert one.run(look_up, name) == [3, []]


def test_tcp_queries_may_be_fragmented_and_pipelined(member: Make) -> None:
    one = member(5, "web")

    def several() -> list[Any]:
        found = [read(ask_tcp(question("web"), pieces)) for pieces in (1, 5)]
        with socket.create_connection((GATEWAY, 53), 5) as client:
            for name in ("web", "nobody"):
                query = question(name)
                client.sendall(struct.pack(">H", len(query)) + query)
                found.append(read(receive(client)))
        return [[code, [data.hex() for data in datas]] for code, datas in found]

    assert one.run(several) == [[0, ["0a090105"]]] * 3 + [[3, []]]


def test_malformed_messages_are_survived(member: Make) -> None:
    one = member(5, "web")
    seed = random.Random(5)

    def bombard() -> bool:
        good = question("web")
        bad = [
            b"",
            b"\0",
            good[:11],
            good[:-1],
            good[:12],
            good[:12] + b"\xc0\x0c\0\1\0\1",  # a pointer to itself
            good[:12] + b"\x3f" * 200,
            good[:12] + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",
            good[:4] + b"\xff\xff" + good[6:],
            good[:2] + b"\x80" + good[3:],
            question("1.2.3.4.5.6.in-addr.arpa", PTR),
            question("999.1.9.10.in-addr.arpa", PTR),
            question("in-addr.arpa", PTR),
            question("ip6.arpa", PTR),
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((GATEWAY, 53))
            for _ in range(2000):
                data = bytearray(seed.choice(bad) or seed.randbytes(seed.randrange(80)))
                if data and seed.random() < 0.7:
                    data[seed.randrange(len(data))] = seed.randrange(256)
                client.send(bytes(data))
        for data in (b"\xff\xff", b"\0\0", b"\0\5abc", struct.pack(">H", 4097) + bytes(4097)):
            with socket.create_connection((GATEWAY, 53), 5) as client:
                try:
                    client.sendall(data)
                except ConnectionError:
                    continue
        # What the socket has no room for is lost, as ever with UDP: asked again.
        return any(read(answer)[0] == 0 for _ in range(5) if (answer := ask(question("web"))))

    assert one.run(bombard)


def test_single_member_cannot_take_all_connections(member: Make, tmp_path: Path) -> None:
    greedy, other = member(5, "web"), member(6, "db")
    sign = tmp_path / "held"

    def hold() -> None:
        clients = [socket.create_connection((GATEWAY, 53), 5) for _ in range(40)]
        sign.write_text(str(len(clients)))
        signal.pause()

    pid = greedy.start(hold)
    try:
        deadline = time.monotonic() + 30
        while not sign.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = other.run(lambda: [part.hex() for part in read(ask_tcp(question("web")))[1]])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert told == ["0a090105"]


def test_connections_beyond_the_limit_are_closed(member: Make) -> None:
    one = member(5, "web")

    def many() -> bool:
        held = [socket.create_connection((GATEWAY, 53), 5) for _ in range(40)]
        answered = look_up("web")[0] == 0
        for client in held:
            client.close()
        time.sleep(0.1)
        return answered and read(ask_tcp(question("web")))[0] == 0

    assert one.run(many)


# -- other names ----------------------------------------------------------------------------------


def serve_names() -> None:
    """Answer each question for an address with one of a documentation range."""
    with (
        socket.create_server(("", 53)) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(("", 53))
        if os.fork() == 0:
            while True:
                client, _ = stream.accept()
                query = receive(client)
                data = query[:2] + b"\x81\x80" + query[4:] + bytes(20000)
                client.sendall(struct.pack(">H", len(data)) + data)
                client.close()
        while True:
            query, client_address = server.recvfrom(4096)
            head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:]
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\xc0\0\2\7"
            server.sendto(b"\0\0" + head[2:] + record, client_address)  # of a forger
            server.sendto(head + record, client_address)


def test_other_names_are_forwarded_to_the_dns_servers(member: Make) -> None:
    """A member is the server here: as an ordinary user no test has port 53 of the host."""
    one, server = member(5, "web"), member(6, "dns")
    assert one.hub.call("S", server.address(1, 6).hex()) == 0
    pid = server.start(serve_names)
    try:
        deadline = time.monotonic() + 30
        while one.run(look_up, "www.example.org") != [0, ["c0000207"]]:
            assert time.monotonic() < deadline
        # A long answer, as it is, by TCP.
        size = one.run(lambda: len(ask_tcp(question("www.example.org"))))
        assert size == 20000 + len(question("www.example.org"))
        assert one.run(look_up, "web") == [0, ["0a090105"]]
    finally:
        kill_group(server)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def kill_group(server: Member) -> None:
    """Kill what serves in a member's network."""
    wanted = os.stat(f"/proc/{server.pid}/ns/net")
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != server.pid:
            try:
                if os.path.samestat(os.stat(f"/proc/{name}/ns/net"), wanted):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                continue


def test_forged_ipv6_source_is_not_believed(member: Make) -> None:
    """Class 51: nobody asks in the name of a member of another network."""
    one, spy, server = member(5, "web"), member(6, "spy", bridges=("br-two",)), member(7, "dns")
    assert one.hub.call("S", server.address(1, 7).hex()) == 0
    reader, writer = os.pipe()

    def hear() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as socket_53:
            socket_53.bind(("", 53))
            os.write(3, b"l")
            while True:
                os.write(3, b"f" if b"forged" in socket_53.recv(4096) else b"o")

    def forge() -> int:
        forged = one.address6(1, 5)
        netlink.call([link.address(link.index("eth0"), forged, 128)])
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.bind((socket.inet_ntop(socket.AF_INET6, forged), 0))
            client.sendto(question("forged.example.org"), ("fd09:2::1", 53))
        return look_up("spy", A, "fd09:2::1")[0]  # this one is believed

    def ask_honestly() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.sendto(question("www.example.org"), ("fd09:1::1", 53))

    pid = server.start(hear, writer)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"l"
        assert spy.run(forge) == 0
        one.run(ask_honestly)
        assert os.read(reader, 1) == b"o"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


@contextlib.contextmanager
def serving(server: Member, function: Callable[[], object]) -> Iterator[None]:
    """Have a function serve in a member's network."""
    pid = server.start(function)
    try:
        yield
    finally:
        kill_group(server)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def look_up_until_answered(name: str, server: str) -> list[str]:
    """Look up a name of a server that is about to listen."""
    deadline = time.monotonic() + 30
    while True:
        code, found = look_up(name, A, server)
        if code == 0:
            return found
        assert time.monotonic() < deadline, code


def serve_silently() -> None:
    """Take questions, and answer none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 53))
        signal.pause()


def test_questions_are_shared_among_members_not_addresses(member: Make) -> None:
    """One with six addresses does not keep another one from asking; it is told so at once."""
    greedy = member(5, "greedy", bridges=("br-one", "br-two", "in-three"))
    other, silent, server = member(6, "other"), member(7, "silent"), member(8, "dns")
    assert greedy.hub.call("S", silent.address(1, 7).hex()) == 0
    assert other.hub.call("S", server.address(1, 8).hex()) == 0

    def ask_much() -> int:
        failed = 0
        gateways = [g for net in (1, 2, 3) for g in (f"10.9.{net}.1", f"fd09:{net}::1")]
        clients = []
        for gateway in gateways:
            family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
            client = socket.socket(family, socket.SOCK_DGRAM)
            client.connect((gateway, 53))
            clients.append(client)
        for number in range(20):
            for client in clients:
                client.send(question("www.example.org", A, number))
        while select.select(clients, [], [], 0.5)[0]:
            for client in select.select(clients, [], [], 0)[0]:
                failed += read(client.recv(4096))[0] == 2
        return failed

    with serving(silent, serve_silently), serving(server, serve_names):
        found = other.run(look_up_until_answered, "www.example.org", GATEWAY)
        assert found == ["c0000207"]
        assert greedy.run(ask_much) >= 6 * 20 - 32  # half of the places are left
        assert other.run(look_up, "www.example.org") == [0, ["c0000207"]]


def test_asker_that_resets_its_connection_is_forgotten_at_once(member: Make) -> None:
    """The kernel told of it without end, as long as the program waited for the server."""
    one, server = member(5, "web"), member(6, "dns")
    assert one.hub.call("S", server.address(1, 6).hex()) == 0
    reader, writer = os.pipe()

    def serve() -> None:
        with socket.create_server(("", 53)) as stream:
            os.write(3, b"l")
            client, _ = stream.accept()
            client.recv(4096)
            os.write(3, b"q")
            client.recv(4096)
            os.write(3, b"e")
            signal.pause()

    def reset() -> None:
        client = socket.create_connection((GATEWAY, 53), 5)
        query = question("www.example.org")
        client.sendall(struct.pack(">H", len(query)) + query)
        os.read(reader, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def ticks() -> int:
        fields = Path(f"/proc/{one.hub.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    pid = server.start(serve, writer)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"l"
        before = ticks()
        one.run(reset)
        assert os.read(reader, 1) == b"e"
        assert ticks() - before < os.sysconf("SC_CLK_TCK")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def test_silent_or_missing_dns_server_is_tolerated(member: Make) -> None:
    one, two = member(5, "web"), member(6, "dns")
    assert one.hub.call("S", two.address(1, 6).hex()) == 0

    def failure() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect((GATEWAY, 53))
            client.send(question("www.example.org"))
            return read(client.recv(4096))[0]

    assert one.run(failure) == 2  # SERVFAIL


# -- published ports -------------------------------------------------------------------------------


def publish(one: Member, port: int, kind: int, family: int = socket.AF_INET) -> int:
    """Publish a port of a member on the host's loopback; return its number there."""
    with socket.socket(family, kind) as bound:
        bound.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        assert one.hub.call("P", str(port), fds=[bound.fileno()]) == 0
        return int(bound.getsockname()[1])


def echo() -> None:
    """Echo what comes, on TCP until its end."""
    with socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.listen(2048)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                while data := client.recv(65536):
                    client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                os._exit(0)
            client.close()


def echo_to_all() -> None:
    """Echo what comes, on any number of connections, in one process."""
    with socket.create_server(("", 80), backlog=2048) as server, select.epoll() as watched:
        watched.register(server, select.EPOLLIN)
        clients: dict[int, socket.socket] = {}
        while True:
            for ready, _ in watched.poll():
                if ready == server.fileno():
                    client = server.accept()[0]
                    clients[client.fileno()] = client
                    watched.register(client, select.EPOLLIN)
                elif data := clients[ready].recv(65536):
                    clients[ready].sendall(data)
                else:
                    clients.pop(ready).close()


def echo_datagrams() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::", 80))
        while True:
            data, client = server.recvfrom(65535)
            server.sendto(data, client)


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Connect to an echo server, once it is there."""
    deadline = time.monotonic() + 30
    while True:
        client = None
        try:
            client = socket.create_connection((host, port), 5)
            client.sendall(b"?")
            if client.recv(1) == b"?":
                return client
        except ConnectionError:
            pass  # the member does not listen yet, which may show while connecting already
        if client is not None:
            client.close()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def served(member: Make) -> Iterator[Member]:
    one = member(5, "web")
    pid = one.start(echo)
    yield one
    kill_group(one)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_big_transfers_and_half_close_work(served: Member) -> None:
    port = publish(served, 80, socket.SOCK_STREAM)
    data = random.Random(1).randbytes(8 << 20)
    with connect(port) as client:
        pid = os.fork()
        if pid == 0:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            os._exit(0)
        digest, size = hashlib.sha256(), 0
        while chunk := client.recv(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        os.waitpid(pid, 0)
    assert size == len(data)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_published_port_works_in_both_families(served: Member) -> None:
    port = publish(served, 80, socket.SOCK_STREAM, socket.AF_INET6)
    with connect(port, "::1") as client:
        client.sendall(b"six")
        assert client.recv(10) == b"six"


def test_stalled_reader_blocks_only_its_sender(served: Member) -> None:
    port = publish(served, 80, socket.SOCK_STREAM)
    with connect(port) as slow, connect(port) as other:
        slow.setblocking(False)
        sent = 0
        progress = time.monotonic()
        while time.monotonic() < progress + 0.5:
            try:
                sent += slow.send(bytes(65536))
                progress = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            assert sent < 512 << 20  # the kernel's buffers on the way are full some time
        other.sendall(b"hello")
        assert other.recv(10) == b"hello"
        slow.setblocking(True)
        slow.settimeout(10)
        received = 0
        while received < sent:
            received += len(slow.recv(1 << 20))
        assert received == sent


def test_flood_of_connections_is_served(member: Make) -> None:
    one = member(5, "web")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    clients = []
    try:
        with serving(one, echo_to_all):
            port = publish(one, 80, socket.SOCK_STREAM)
            connect(port).close()
            for number in range(1000):
                client = socket.create_connection(("127.0.0.1", port), 30)
                client.sendall(b"%04d" % number)
                clients.append(client)
            for number, client in enumerate(clients):
                assert client.recv(4, socket.MSG_WAITALL) == b"%04d" % number
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def tell_peers() -> None:
    """Tell each client which address it has, as seen from here."""
    with socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            client, peer = server.accept()
            client.sendall(peer[0].removeprefix("::ffff:").encode())
            client.close()


def tell_peers_by_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 80))
        while True:
            _, peer = server.recvfrom(100)
            server.sendto(peer[0].encode(), peer)


@pytest.mark.needs("default route")
def test_member_sees_the_sender_of_datagrams(member: Make) -> None:
    one = member(5, "web")
    pid = one.start(tell_peers_by_datagrams)
    try:
        for address, wanted in ((outward_address(), outward_address()), ("127.0.0.1", "10.9.1.1")):
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            ):
                bound.bind((address, 0))
                assert one.hub.call("P", "80", fds=[bound.fileno()]) == 0
                client.connect(bound.getsockname())
                client.settimeout(0.2)
                said = b""
                deadline = time.monotonic() + 30
                while not said:
                    assert time.monotonic() < deadline
                    try:
                        client.send(b"?")
                        said = client.recv(100)
                    except (TimeoutError, ConnectionError):
                        continue  # the member does not listen yet
                assert said.decode() == wanted
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


@pytest.mark.needs("default route")
def test_member_sees_the_address_of_the_client(member: Make) -> None:
    """The client's address, if others can have it too; for the loopback's the gateway's."""
    one, closed = member(5, "web"), member(6, "alone", bridges=("in-three",))
    host = outward_address()
    for server, expected in ((one, host), (closed, "10.9.3.1")):
        pid = server.start(tell_peers)
        try:
            for address in (host, "127.0.0.1"):
                with socket.create_server((address, 0)) as bound:
                    port = bound.getsockname()[1]
                    assert server.hub.call("P", "80", fds=[bound.fileno()]) == 0
                gateway = "10.9.1.1" if server is one else "10.9.3.1"
                # Nobody can send anything to a loopback's address.
                wanted = expected if address == host else gateway
                told_by(address, port)  # it listens now, by both families
                assert told_by(address, port) == wanted
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def told_by(address: str, port: int) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection((address, port), 5) as client:
                if said := client.recv(100):
                    return said.decode()
        except ConnectionError:
            pass  # the member does not listen yet
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_idle(pid: int) -> None:
    """Wait until a process has taken the connections that it takes."""
    before = -1
    while (now := len(os.listdir(f"/proc/{pid}/fd"))) != before:
        before = now
        time.sleep(0.2)


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch, member: Make, tmp_path: Path) -> None:
    """Give the program 800 descriptors."""
    program = process.own_program(hub.PROGRAM)
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -n 800\nexec {program} "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setattr(process, "own_program", lambda _: str(limited))
    monkeypatch.setattr(process, "open_own_program", lambda _: os.open("/dev/null", os.O_RDONLY))


@pytest.mark.usefixtures("few_descriptors")
def test_idle_clients_of_a_port_leave_descriptors_to_others(member: Make) -> None:
    popular, other = member(5, "web"), member(6, "db")
    with serving(popular, echo_to_all), serving(other, echo_to_all):
        port, other_port = (publish(one, 80, socket.SOCK_STREAM) for one in (popular, other))
        connect(port).close()
        clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(450)]
        wait_until_idle(popular.hub.pid)
        with connect(other_port):
            pass
        for client in clients:
            client.close()
        connect(port).close()  # it goes on once there is room


def test_connection_to_a_closed_port_is_refused(member: Make) -> None:
    one = member(5, "web")
    port = publish(one, 81, socket.SOCK_STREAM)
    with (
        pytest.raises(ConnectionResetError),  # while connecting, or just after
        socket.create_connection(("127.0.0.1", port), 5) as client,
    ):
        client.recv(1)


def test_port_is_free_after_the_member_has_left(member: Make) -> None:
    one = member(5, "web")
    member(6, "db")
    port = publish(one, 80, socket.SOCK_STREAM)
    leave(one)
    with socket.create_server(("127.0.0.1", port)):
        pass


def leave(one: Member) -> None:
    """Leave as the monitor does: say so, and wait until it is done."""
    with socket.socket(fileno=os.dup(one.hub.fd)) as channel:
        channel.shutdown(socket.SHUT_WR)
        channel.settimeout(5)
        assert channel.recv(10) == b""


def send_until_answered(client: socket.socket) -> None:
    """Send a datagram to an echo server that is about to listen, until it comes back."""
    client.settimeout(0.2)
    deadline = time.monotonic() + 30
    while True:
        try:
            client.send(b"?")
            assert client.recv(10) == b"?"
            return
        except (TimeoutError, ConnectionError):
            assert time.monotonic() < deadline


def test_datagrams_are_forwarded(member: Make) -> None:
    one = member(5, "web")
    port = publish(one, 80, socket.SOCK_DGRAM)
    pid = one.start(echo_datagrams)
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            for client in (first, second):
                client.connect(("127.0.0.1", port))
            send_until_answered(first)
            for client, size in ((first, 9000), (second, 1), (first, 60000), (second, 9000)):
                client.settimeout(5)
                data = os.urandom(size)
                client.send(data)
                assert client.recv(65535) == data
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.usefixtures("few_descriptors")
def test_many_clients_of_a_udp_port_leave_places_to_others(member: Make) -> None:
    """There are 100 places then. All clients are served, at the cost of the member's oldest."""
    popular, other = member(5, "web"), member(6, "db")
    with (
        serving(popular, echo_datagrams),
        serving(other, echo_datagrams),
        contextlib.ExitStack() as sockets,
    ):
        port, other_port = (publish(one, 80, socket.SOCK_DGRAM) for one in (popular, other))
        for number in [*[port] * 120, other_port]:
            client = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.connect(("127.0.0.1", number))
            send_until_answered(client)


# -- the way out ----------------------------------------------------------------------------------


def frame(bridge_mac: bytes, source: str, target: str) -> bytes:
    """Return a datagram without data, as a whole frame, with an address of the sender's choice."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    ends = b"".join(socket.inet_pton(family, end) for end in (source, target))
    udp = struct.pack(">HHHH", 4444, 9, 8, 0)
    if family == socket.AF_INET6:
        head = struct.pack(">IHBB", 6 << 28, len(udp), socket.IPPROTO_UDP, 64) + ends
        return bridge_mac + bytes([2, 0, 0, 0, 1, 5]) + b"\x86\xdd" + head + udp
    sizes = struct.pack(">BBHHHBB", 0x45, 0, 28, 1, 0, 64, socket.IPPROTO_UDP)
    total = sum(struct.unpack(">9H", sizes + ends))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = sizes + struct.pack(">H", checksum) + ends
    return bridge_mac + bytes([2, 0, 0, 0, 1, 5]) + b"\x08\0" + head + udp


@pytest.mark.needs("tun", "pasta")
def test_security_class_38_hub_sends_nothing_to_a_loopback(member: Make) -> None:
    """Class 38: pasta would take these for the host's own; what is for others passes."""
    one = member(5, "web")
    assert one.hub.wait_for_way_out() == ""
    outside, outside6 = "192.0.2.9", "2001:db8::9"
    targets = ["127.0.0.1", "0.0.0.0", "0.1.2.3", outside]
    targets6 = ["::", "::1", "::7f00:1", "::ffff:127.0.0.1", outside6]
    reader, writer = os.pipe()

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as frames:
            frames.bind(("eth0", 0))
            mac = b"\x02\x42" + one.address(1, 1)
            for target in targets:
                frames.send(frame(mac, "10.9.1.5", target))
            for target in targets6:
                frames.send(frame(mac, "fd09:1::5", target))

    def watch_way_out() -> list[str]:
        bridge.enter(one.hub)
        way_out = link.index("eth0")
        with IPRoute() as route:
            route.link("set", index=way_out, arp=False)  # nobody is asked who has the address
            for family in (socket.AF_INET, socket.AF_INET6):
                route.route("replace", dst="default", oif=way_out, family=family)
        netlink.call([link.address(way_out, bytes.fromhex("20010db8" + 23 * "0" + "2"), 64)])
        found: list[str] = []
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as frames:
            frames.bind(("eth0", 3))
            os.write(writer, b"r")
            frames.settimeout(20)
            while not {outside, outside6} <= set(found):
                data = frames.recv(4096)
                if data[12:14] == b"\x08\0" and data[23] == socket.IPPROTO_UDP:
                    found.append(socket.inet_ntop(socket.AF_INET, data[30:34]))
                elif data[12:14] == b"\x86\xdd" and data[20] == socket.IPPROTO_UDP:
                    found.append(socket.inet_ntop(socket.AF_INET6, data[38:54]))
        return found

    def send_when_watched() -> None:
        os.read(reader, 1)
        one.run(send)

    sender = os.fork()
    if sender == 0:
        try:
            send_when_watched()
        finally:
            os._exit(0)
    found = in_a_fork(watch_way_out)
    os.waitpid(sender, 0)
    assert not set(found) & {*targets[:-1], *targets6[:-1]}
