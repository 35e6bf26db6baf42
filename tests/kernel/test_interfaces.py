"""What `rootless.network.interfaces` sees and removes in the network of another process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from rootless.errors import RlessError
from rootless.linux import idmap, ns
from rootless.linux.network import link, netlink, route
from rootless.network import addresses, interfaces
from tests.lib.engine_namespace import make_map

pytestmark = pytest.mark.needs("user namespaces")

IPV4, GATEWAY = b"\x0a\x59\x00\x02", b"\x0a\x59\x00\x01"
IPV6 = b"\xfd" + bytes(14) + b"\x02"
GATEWAY6 = IPV6[:-1] + b"\x01"


def fill() -> None:
    """Make a pair of interfaces with addresses and routes, and send by it."""
    netlink.loopback_up()
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    netlink.call([link.bridge("br0", b"\x02\x42\0\0\0\1", 1500)])
    netlink.call([link.pair("out", link.index("br0"), 1500, "eth0", own, b"\x02\x42\0\0\0\2")])
    number = link.index("eth0")
    requests = [link.up(number), link.address(number, IPV4, 24), link.address(number, IPV6, 64)]
    netlink.call([*requests, route.default(GATEWAY), route.default(GATEWAY6)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"x", ("10.89.0.255", 9))


@pytest.fixture
def other() -> Iterator[int]:
    """Return the pid of a process with a filled network of its own."""
    reader, writer = os.pipe()

    def body() -> NoReturn:
        fill()
        os.write(writer, b"\n")
        signal.pause()
        os._exit(0)

    pid = idmap.spawn(make_map("single"), ns.CLONE_NEWNET, body)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"\n"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def device_counters(pid: int) -> tuple[int, int]:
    received = sent = 0
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
        for line in file.readlines()[2:]:
            name, _, figures = line.partition(":")
            if name.strip() != "lo":
                received += int(figures.split()[0])
                sent += int(figures.split()[8])
    return received, sent


def test_addresses_and_gateways_of_another_process_are_read(other: int) -> None:
    found = interfaces.addresses(other)
    assert sorted(found["addresses"]) == [["10.89.0.2", 24], ["fd00::2", 64]]
    assert sorted(found["gateways"]) == ["10.89.0.1", "fd00::1"]


def test_counters_are_those_of_all_interfaces_but_the_loopback(other: int) -> None:
    before = device_counters(other)
    received, sent = interfaces.counters(other)
    after = device_counters(other)
    assert 0 < before[0] <= received <= after[0]
    assert 0 < before[1] <= sent <= after[1]


def test_own_network_and_ended_process_have_no_counters() -> None:
    assert interfaces.counters(os.getpid()) == (0, 0)
    assert interfaces.counters(1 << 30) == (0, 0)
    assert interfaces.addresses(1 << 30) == {"addresses": [], "gateways": []}


def test_removing_an_interface_keeps_the_other_default_route(other: int) -> None:
    netns = f"/proc/{other}/ns/net"
    for _ in range(2):  # one that is gone is no error
        interfaces.remove(netns, "eth0", [])
    assert interfaces.addresses(other) == {"addresses": [], "gateways": []}
    with pytest.raises(RlessError, match=r"netlink\(remove\)"):
        interfaces.remove(netns, "eth0", ["10.89.0.1"])  # which nothing leads to any more


def test_existing_default_route_is_kept(other: int) -> None:
    interfaces.remove(f"/proc/{other}/ns/net", "none", ["10.89.0.1", "fd00::1"])
    assert sorted(interfaces.addresses(other)["gateways"]) == ["10.89.0.1", "fd00::1"]


def subnets_beside_a_vpn() -> dict[str, Any]:
    from pyroute2 import IPRoute

    fill()
    with IPRoute() as kernel:
        kernel.route("add", dst="10.89.2.0/23", gateway="10.89.0.1", table=52)
    return {"routes": interfaces.host_routes(), "free": str(addresses.free_subnet([]))}


def test_automatic_subnets_avoid_routes_of_all_tables() -> None:
    both = ns.CLONE_NEWNS | ns.CLONE_NEWNET
    found = idmap.call_in_userns(make_map("single"), subnets_beside_a_vpn, namespaces=both)
    assert ["10.89.0.0", 24] in found["routes"]
    assert ["10.89.2.0", 23] in found["routes"]
    assert not [prefix for _, prefix in found["routes"] if prefix == 0]
    assert found["free"] == "10.89.1.0/24"
