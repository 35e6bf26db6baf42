"""Published ports are reserved before the start, on a simulated host."""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.request import Port
from rootless.errors import RlessError
from rootless.network import ports
from tests.lib import fakehost
from tests.lib.fakehost import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.needs("user namespaces", "ordinary user", "tun")


@pytest.fixture
def on_host(tmp_path: Path) -> Callable[..., Any]:
    return lambda function: fakehost.run(Host(ipv6=True), function, tmp_path)


def random_port(protocol: str = "tcp") -> Port:
    return Port(None, None, 80, protocol)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_free_port_is_reserved_until_published(on_host: Callable[..., Any], protocol: str) -> None:
    """Nobody whose port the kernel chooses gets it meanwhile, be it another container or not."""

    def story() -> Any:
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
            file.write("40000 40003")
        wanted = [random_port(protocol) for _ in range(4)]
        held = ports.take(wanted)
        refused = []
        for attempt in (
            lambda: ports.take([random_port(protocol)]),
            lambda: _bind_any(protocol),
        ):
            try:
                attempt()
            except (RlessError, OSError) as error:
                refused.append(str(error))
        held.close()
        ports.take([random_port(protocol)]).close()
        return sorted(port.host_port or 0 for port in wanted), refused, held.shown

    numbers, refused, shown = on_host(story)
    assert numbers == [40000, 40001, 40002, 40003]
    assert refused[0] == "cannot publish port 80: no port is free"
    assert len(refused) == 2
    assert len(shown) == 8
    assert {text.partition(":4")[0] for text in shown} == {"0.0.0.0", "[::]"}
    assert all(text.endswith(f"->80/{protocol}") for text in shown)


def _bind_any(protocol: str) -> None:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("0.0.0.0", 0))


def test_range_gives_a_free_port(on_host: Callable[..., Any]) -> None:
    def story() -> Any:
        first = [Port(None, 8000, 80, "tcp", 8002), Port("127.0.0.1", 8000, 81, "tcp")]
        second = [Port("127.0.0.1", 8000, 80, "tcp", 8002)]
        held = [ports.take(first), ports.take(second)]
        for one in held:
            one.close()
        servers = [socket.create_server(("127.0.0.1", number)) for number in (8000, 8001)]
        try:
            ports.take([Port(None, 8000, 80, "tcp", 8001)])
        except RlessError as error:
            message = error.message
        for server in servers:
            server.close()
        return [port.host_port for port in (*first, *second)], message, held[1].shown

    numbers, message, shown = on_host(story)
    assert numbers == [8001, 8000, 8002]
    assert message == "cannot publish on any address, port 8000-8001/tcp: it is taken"
    assert shown == ["127.0.0.1:8002->80/tcp"]


def test_port_requested_twice_is_refused(on_host: Callable[..., Any]) -> None:
    def story(one: str | None, other: str | None) -> Callable[[], Any]:
        def body() -> Any:
            try:
                ports.take([Port(one, 80, 80, "tcp"), Port(other, 80, 81, "tcp")]).close()
            except RlessError as error:
                return error.message
            return "taken"

        return body

    for one, other in ((None, "::1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")):
        assert on_host(story(one, other)).endswith("it is given twice")
        assert on_host(story(other, one)).endswith("it is given twice")
    assert on_host(story("0.0.0.0", "::1")) == "taken"
    assert on_host(story("127.0.0.1", "127.0.0.2")) == "taken"


def test_many_ports_fit_into_the_descriptor_limit(on_host: Callable[..., Any]) -> None:
    """A range of 600 needs more descriptors than a process usually may have."""

    def story() -> Any:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        held = ports.take([Port(None, 20000 + n, 80, "tcp") for n in range(600)])
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        fd = os.open("/", os.O_RDONLY)
        os.close(fd)
        held.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))
        try:
            ports.take([Port(None, 20000 + n, 80, "tcp") for n in range(600)])
        except RlessError as error:
            return limit, fd < 1024, len(held.shown), str(error)

    limit, is_low, shown, message = on_host(story)
    assert (limit, is_low, shown) == (1024, True, 1200)
    assert message.startswith("cannot publish 600 ports: the limit of descriptors is 600; ")


def test_exposed_ports_are_numbers() -> None:
    assert ports.exposed(["90-92/udp", "80", "443/tcp", "80/tcp", "x", "7-/tcp"]) == [
        "7/tcp", "80/tcp", "90/udp", "91/udp", "92/udp", "443/tcp",
    ]  # fmt: skip
