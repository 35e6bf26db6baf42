"""Networks of several containers, from `network create` to their removal.

Their way out is no way to the host's loopback (class 38 of docs/security.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lib import images
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs(
    "user namespaces", "subordinate ids", "tun", "pasta", "compiler", "default route"
)


@pytest.fixture
def net(rless: Product) -> Iterator[str]:
    rless("network", "create", "net").expect()
    yield "net"
    rless.clear()
    for name in rless("network", "ls", "-q").lines():
        rless("network", "rm", name)


def inspect(rless: Product, name: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(
        rless("inspect", "-f", "{{json .NetworkSettings}}", name).expect().out
    )
    return settings


def address(rless: Product, name: str, network: str = "net") -> str:
    return str(inspect(rless, name)["Networks"][network]["IPAddress"])


def finds(rless: Product, container: str, name: str) -> list[str]:
    """Return the addresses that a container finds for a name."""
    done = rless("exec", container, "nslookup", name)
    lines = done.out.split("\n\n", 1)[-1].splitlines() if done.code == 0 else []
    return [line.split()[-1] for line in lines if line.startswith("Address")]


def reaches(rless: Product, container: str, target: str) -> bool:
    addresses = finds(rless, container, target) if target[0].isalpha() else [target]
    done = rless("exec", container, "probe", "ping", *addresses[:1])
    return bool(addresses) and done.expect().facts()["ping"] == "ok"


def hub_processes(rless: Product) -> dict[int, str]:
    return {
        pid: what
        for pid, what in rless.processes().items()
        if "rless: networks" in what or "pasta" in what
    }


def test_members_resolve_and_reach_each_other(rless: Product, net: str) -> None:
    rless.detach("web", f"--network {net} --network-alias www --hostname host1", "sleep", "60")
    rless.detach("db", f"--network {net}:alias=data", "sleep", "60")
    web, db = address(rless, "web"), address(rless, "db")
    assert len({web, db}) == 2
    short = rless("inspect", "-f", "{{slice .Id 0 12}}", "web").expect().out.strip()
    for name in ("web", "www", "host1", short):
        assert finds(rless, "db", name) == [web], name
    assert finds(rless, "web", "data") == [db]
    assert reaches(rless, "web", "db")
    rless("stop", "-t", "0", "db").expect()
    assert finds(rless, "web", "db") == []
    rless("start", "db").expect()
    assert finds(rless, "web", "db") == [address(rless, "db")]
    rless("rm", "-f", "web", "db").expect()
    rless.assert_clean()
    assert not (rless.live.parent / "hub" / "networks").exists()


def test_member_has_address_route_and_resolver(rless: Product, net: str) -> None:
    rless("network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "six").expect()
    flags = "--network six:ip=10.77.0.9,mac=02:00:00:00:00:09,interface_name=lan"
    rless.detach("web", f"{flags} --dns-search example.org", "sleep", "60")
    place = inspect(rless, "web")["Networks"]["six"]
    assert place["IPAddress"] == "10.77.0.9"
    assert place["Gateway"] == "10.77.0.1"
    assert place["MacAddress"] == "02:00:00:00:00:09"
    six = place["GlobalIPv6Address"]
    shown = rless("exec", "web", "ip", "addr", "show", "lan").expect().out
    assert "10.77.0.9/24" in shown
    assert f"{six}/64" in shown
    assert "02:00:00:00:00:09" in shown
    assert "default via 10.77.0.1" in rless("exec", "web", "ip", "route").out
    # No other member can be its router (CVE-2020-13401).
    accepts = rless("exec", "web", "cat", "/proc/sys/net/ipv6/conf/lan/accept_ra")
    assert accepts.lines() == ["0"]
    hosts = rless("exec", "web", "cat", "/etc/hosts").out
    assert "10.77.0.9\t" in hosts
    assert f"{six}\t" in hosts
    resolv = rless("exec", "web", "cat", "/etc/resolv.conf").lines()
    gateway = place["IPv6Gateway"]
    assert resolv[:3] == [
        "nameserver 10.77.0.1",
        f"nameserver {gateway}",
        "search example.org",
    ]
    assert "ndots:0" in resolv[-1]
    found = json.loads(rless("network", "inspect", "six").expect().out)[0]
    assert found["IPAM"]["Config"][0] == {"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}
    (member,) = found["Containers"].values()
    assert member["Name"] == "web"
    assert member["IPv4Address"] == "10.77.0.9/24"
    assert member["IPv6Address"] == f"{six}/64"
    assert rless("ps", "-q", "--filter", "network=six").lines() != []
    assert rless("ps", "-q", "--filter", f"network={net}").lines() == []


def test_thirty_members_start_in_parallel(rless: Product, net: str) -> None:
    def start(number: int) -> int:
        words = ("--name", f"c{number}", "--network", net, rless.image, "sleep", "60")
        return rless("run", "-d", *words, timeout=120).code

    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(start, range(10, 40))) == {0}
    found = json.loads(rless("network", "inspect", net).expect().out)[0]["Containers"]
    assert len({one["IPv4Address"] for one in found.values()}) == 30
    assert finds(rless, "c10", "c39") == [address(rless, "c39")]
    assert sum("rless: networks" in what for what in hub_processes(rless).values()) == 1
    rless("rm", "-f", *(f"c{number}" for number in range(10, 40)), timeout=120).expect()
    rless.assert_clean()


def test_networks_are_isolated(rless: Product, net: str) -> None:
    rless("network", "create", "other").expect()
    rless.detach("web", f"--network {net}", "sleep", "60")
    rless.detach("db", "--network other", "sleep", "60")
    rless.detach("both", f"--network {net} --network other", "sleep", "60")
    assert finds(rless, "web", "db") == []
    assert not reaches(rless, "web", address(rless, "db", "other"))
    assert reaches(rless, "both", "web")
    assert reaches(rless, "both", "db")
    # Nor by way of the one that is in both, nor with a route of its own making.
    via = address(rless, "both")
    rless.detach("root", f"--network {net} --cap-add NET_ADMIN", "sleep", "60")
    rless("exec", "root", "ip", "route", "add", address(rless, "db", "other"), "via", via).expect()
    assert not reaches(rless, "root", address(rless, "db", "other"))


def connects(rless: Product, container: str, host: str, port: int) -> bool:
    return rless("exec", container, "nc", "-w", "1", host, str(port)).code == 0


def serve(host: str) -> tuple[socket.socket, int]:
    """Serve connections, which end at once; return the socket and its port."""
    server = socket.create_server((host, 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    threading.Thread(target=accept, daemon=True).start()
    return server, server.getsockname()[1]


def outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def test_members_reach_outside_but_not_the_hosts_loopback(rless: Product, net: str) -> None:
    """Outside is what the host reaches; its loopback is not, by whatever way."""
    rless("network", "create", "--internal", "inner").expect()
    host = outward_address()
    outside, port = serve(host)
    inside, hidden = serve("127.0.0.1")
    with outside, inside:
        for number in range(2):  # a second source behind the same pasta
            rless.detach(f"web{number}", f"--network {net}", "sleep", "60")
            assert connects(rless, f"web{number}", host, port)
        assert connects(rless, "web0", "host.containers.internal", port)
        assert not connects(rless, "web0", "host.containers.internal", hidden)
        for target in ("127.0.0.1", "169.254.117.1", "169.254.117.2", "10.89.0.1"):
            assert not connects(rless, "web0", target, hidden), target
        rless.detach("alone", "--network inner", "sleep", "60")
        assert not connects(rless, "alone", host, port)
        assert ".internal" not in rless("exec", "alone", "cat", "/etc/hosts").out
        rless.detach("root", "--network inner --cap-add NET_ADMIN", "sleep", "60")
        gateway = inspect(rless, "root")["Networks"]["inner"]["Gateway"]
        rless("exec", "root", "ip", "route", "add", "default", "via", gateway).expect()
        assert not connects(rless, "root", host, port)


SERVE = "while :; do echo hello | nc -l -p 80; done"


def answers(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), 5) as client:
            client.settimeout(5)
            return client.recv(10) == b"hello\n"
    except (ConnectionError, TimeoutError):
        return False


def listeners(rless: Product) -> set[tuple[str, int]]:
    """Return the ports of the host that rless's processes have, by the files of /proc/net."""
    inodes = set()
    for pid in rless.processes():
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = set()
    for file in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes:
                found.add((file, int(fields[1].rpartition(":")[2], 16)))
    return found


def test_published_ports_are_reachable(rless: Product, net: str) -> None:
    """By both families, after a restart too; nothing else listens, and then nothing at all."""
    free = images.free_port()
    rless.detach("web", f"--network {net} -p {free}:80", "sh", "-c", SERVE)
    wait_for(lambda: answers(free), "an answer")
    wait_for(lambda: answers(free, "::1"), "an answer by IPv6")
    assert listeners(rless) == {("tcp", free), ("tcp6", free)}
    assert rless("port", "web").lines() == [f"80/tcp -> 0.0.0.0:{free}", f"80/tcp -> [::]:{free}"]
    taken = rless("run", "--rm", "--network", net, "-p", f"{free}:80", rless.image, "true")
    assert "is taken" in taken.expect(125).one_line_error()
    rless("restart", "-t", "0", "web").expect()
    wait_for(lambda: answers(free), "an answer")
    rless("stop", "-t", "0", "web").expect()
    assert listeners(rless) == set()
    rless("rm", "web").expect()
    rless.assert_clean()


def test_membership_survives_an_automatic_restart(rless: Product, net: str) -> None:
    free = images.free_port()
    flags = f"--network {net} -p 127.0.0.1:{free}:80 --restart always"
    rless.detach("web", flags, "sh", "-c", "echo hello | nc -l -p 80")
    rless.detach("db", f"--network {net}", "sleep", "60")
    own = address(rless, "web")
    for _ in range(2):  # each answer is the end of the application
        wait_for(lambda: answers(free), "an answer")
    assert finds(rless, "db", "web") == [own]
    assert address(rless, "web") == own


def test_running_container_is_connected_and_disconnected(rless: Product, net: str) -> None:
    rless("network", "create", "other").expect()
    rless.detach("web", f"--network {net}", "sleep", "60")
    rless.detach("db", "--network other", "sleep", "60")
    rless("network", "connect", "--alias", "www", "other", "web").expect()
    again = rless("network", "connect", "other", "web").expect(1)
    assert "already" in again.one_line_error()
    own = address(rless, "web", "other")
    assert finds(rless, "db", "www") == [own]
    assert finds(rless, "web", "db") == [address(rless, "db", "other")]
    assert reaches(rless, "web", "db")
    assert own in rless("exec", "web", "cat", "/etc/hosts").out
    assert rless("exec", "web", "cat", "/etc/resolv.conf").out.count("nameserver") == 2
    rless("restart", "-t", "0", "web").expect()
    assert sorted(inspect(rless, "web")["Networks"]) == [net, "other"]
    rless("network", "disconnect", "other", "web").expect()
    assert finds(rless, "db", "www") == []
    assert finds(rless, "web", "db") == []
    assert rless("exec", "web", "cat", "/etc/resolv.conf").out.count("nameserver") == 1
    shown = rless("exec", "web", "ip", "addr").out
    assert "eth0" in shown
    assert "eth1" not in shown
    # The way out is that of the network that is left.
    rless("network", "connect", "other", "web").expect()
    rless("network", "disconnect", net, "web").expect()
    gateway = inspect(rless, "web")["Networks"]["other"]["Gateway"]
    assert f"default via {gateway}" in rless("exec", "web", "ip", "route").out
    rless("network", "connect", net, "web").expect()
    rless("network", "disconnect", "other", "web").expect()
    done = rless("network", "disconnect", "other", "web").expect(1)
    assert "is not in network other" in done.one_line_error()
    rless("network", "disconnect", "-f", "other", "web").expect()
    # One that does not run has it at its next start.
    rless("stop", "-t", "0", "web").expect()
    rless("network", "connect", "--ip", "10.89.9.9", "other", "web").expect(1)
    rless("network", "connect", "other", "web").expect()
    rless("start", "web").expect()
    assert finds(rless, "db", "web") == [address(rless, "web", "other")]
    # One that is in none any more still can join.
    rless("network", "disconnect", net, "db").expect(1)
    rless("network", "disconnect", "other", "db").expect()
    assert inspect(rless, "db")["Networks"] == {}
    assert "eth0" not in rless("exec", "db", "ip", "addr").out
    rless("network", "connect", net, "db").expect()
    assert finds(rless, "db", "web") == [address(rless, "web", net)]
    assert reaches(rless, "db", "web")
    rless.detach("lone", "--network pasta", "sleep", "60")
    done = rless("network", "connect", net, "lone").expect(1)
    assert "was made with --network=pasta" in done.one_line_error()


def test_renamed_container_is_found_by_its_new_name(rless: Product, net: str) -> None:
    rless.detach("web", f"--network {net}", "sleep", "60")
    rless.detach("db", f"--network {net}", "sleep", "60")
    rless("rename", "web", "neu").expect()
    assert finds(rless, "db", "neu") == [address(rless, "neu")]
    assert finds(rless, "db", "web") == []


def test_container_can_join_the_namespace_of_a_member(rless: Product, net: str) -> None:
    rless.detach("web", f"--network {net}", "sh", "-c", SERVE)
    rless.detach("db", f"--network {net}", "sleep", "60")
    done = rless.sh("hostname; nslookup db; nc 127.0.0.1 80", "--network", "container:web")
    assert address(rless, "db") in done.out
    assert "hello" in done.out
    refused = rless.run(f"--network {net} --pid container:web", "true")
    assert "do not go together" in refused.expect(125).one_line_error()


def test_hosts_are_those_of_the_member_whose_namespace_is_joined(rless: Product, net: str) -> None:
    rless("network", "create", "other").expect()
    rless.detach("web", f"--network {net}", "sleep", "60")
    rless.detach("beside", "--network container:web", "sleep", "60")
    rless("network", "connect", "other", "web").expect()
    for name in ("web", "beside"):
        assert address(rless, "web", "other") in rless("exec", name, "cat", "/etc/hosts").out
    rless("rm", "-f", "web", "beside").expect()


def test_interface_is_removed_with_its_member(rless: Product, net: str) -> None:
    """Who shares the namespace does not keep an address that the next member gets."""
    rless.detach("web", f"--network {net}", "sleep", "60")
    rless.detach("beside", "--network container:web", "sleep", "60")
    theirs = address(rless, "web")
    assert theirs in rless("exec", "beside", "ip", "addr").expect().out
    rless("stop", "-t", "0", "web").expect()
    assert "eth0" not in rless("exec", "beside", "ip", "addr").expect().out
    rless.detach("next", f"--network {net}", "sleep", "60")
    assert address(rless, "next") == theirs
    rless("start", "web").expect()
    assert reaches(rless, "next", "web")
    rless("rm", "-f", "web", "beside", "next").expect()


def test_links_add_names(rless: Product, net: str) -> None:
    rless.detach("db", f"--network {net} --expose 5432 -e TOKEN=x", "sleep", "60")
    own = address(rless, "db")
    flags = ("--network", net, "--link", "db:data")
    done = rless.sh("cat /etc/hosts; env", *flags)
    assert f"{own}\tdata" in done.lines()
    assert f"DATA_PORT_5432_TCP=tcp://{own}:5432" in done.lines()
    assert "DATA_ENV_TOKEN=x" in done.lines()
    rless("stop", "-t", "0", "db").expect()
    refused = rless.run(flags, "true")
    assert "does not run in the same network" in refused.expect(125).one_line_error()


def test_requested_address_survives_a_restart(rless: Product, net: str) -> None:
    subnet = json.loads(rless("network", "inspect", net).out)[0]["IPAM"]["Config"][0]["Subnet"]
    wanted = subnet.replace(".0/24", ".2")  # the first that is given
    rless.detach("web", f"--network {net} --ip {wanted}", "sleep", "60")
    taken = rless.run(f"--network {net} --ip {wanted}", "true")
    assert "in use by container" in taken.expect(125).one_line_error()
    rless("stop", "-t", "0", "web").expect()
    rless.detach("other", f"--network {net}", "sleep", "60")
    assert address(rless, "other") != wanted
    rless("start", "web").expect()
    assert address(rless, "web") == wanted
    rless("rm", "-f", "web").expect()
    rless.run(f"--network {net} --ip {wanted}", "true").expect()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--subnet 10.89.7.0/24 --gateway 10.1.0.1 x", "is in no --subnet"),
        ("--subnet 10.89.7.1/24 x", "do you mean 10.89.7.0/24"),
        ("--subnet 10.89.7.0/24 --ip-range 10.89.8.0/25 x", "is in no --subnet"),
        ("--opt mtu=5 x", "not a packet size in bytes"),
        ("--opt colour=red x", "is not supported"),
        ("--driver macvlan x", "is not supported"),
        ("none", "cannot be the name"),
        ("a/b", "cannot be the name"),
        ("net", "exists already"),
    ],
)
def test_wrong_networks_are_refused(rless: Product, net: str, words: str, why: str) -> None:
    done = rless("network", "create", *words.split())
    assert done.code != 0
    assert why in done.one_line_error()


def test_networks_are_listed_and_removed(rless: Product, net: str) -> None:
    rless("network", "create", "--label", "a=b", "-o", "mtu=1400", "other").expect()
    listed = rless("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").lines()
    assert listed == ["bridge bridge local", f"{net} bridge local", "other bridge local"]
    assert rless("network", "ls", "-q", "--filter", "label=a=b").lines() == [
        json.loads(rless("network", "inspect", "other").out)[0]["Id"][:12]
    ]
    overlap = rless("network", "create", "--subnet", "10.89.0.0/16", "third").expect(125)
    assert "overlaps with" in overlap.one_line_error()
    for nobodys in ("127.0.0.0/24", "224.0.1.0/24", "169.254.117.0/28", "fe80::/64"):
        refused = rless("network", "create", "--subnet", nobodys, "third").expect(125)
        assert f"{nobodys}: containers cannot have addresses of" in refused.one_line_error()
    rless.detach("web", "--network other", "sleep", "60")
    assert "mtu 1400" in rless("exec", "web", "ip", "link", "show", "eth0").out
    used = rless("network", "rm", "other").expect(1)
    assert "has containers: web" in used.one_line_error()
    pruned = rless("network", "prune", "-f").expect()
    assert pruned.lines() == ["Deleted Networks:", net, ""][: len(pruned.lines())]
    rless("rm", "-f", "web").expect()
    assert rless("network", "rm", "other").expect().lines() == ["other"]
    missing = rless("network", "rm", "other").expect(1)
    kept = rless("network", "rm", "bridge").expect(1)
    assert "pre-defined" in kept.one_line_error()
    assert "no such network" in missing.one_line_error()
    rless("network", "rm", "-f", "other").expect()
    gone = rless("run", "--rm", "--network", "other", rless.image, "true").expect(125)
    assert "no such network: other" in gone.one_line_error()


def test_network_commands_record_events(rless: Product) -> None:
    rless("network", "create", "told").expect()
    rless.run("--network told", "true").expect()
    rless("network", "rm", "told").expect()
    told = rless(
        "events", "--since", "1m", "--until", "0s", "--filter", "network=told",
        "--format", "{{.Action}}",
    )  # fmt: skip
    assert told.expect().lines() == ["create", "connect", "disconnect", "destroy"]


# -- killed ---------------------------------------------------------------------------------------


def kill(rless: Product, what: str) -> None:
    for pid, title in rless.processes().items():
        if what in title:
            os.kill(pid, signal.SIGKILL)


def lost(rless: Product, name: str) -> str:
    return rless("inspect", "-f", "{{.State.Error}}", name).expect().out.strip()


def status(rless: Product, name: str) -> str:
    words = ("ps", "--filter", f"name={name}", "--format", "{{.Status}}|{{.Ports}}")
    return rless(*words).expect().out.strip()


def test_killed_hub_is_reported_and_replaced(rless: Product, net: str) -> None:
    rless.detach("web", f"--network {net} -p 127.0.0.1::80", "sleep", "60")
    rless.detach("db", f"--network {net}", "sleep", "60")
    kill(rless, "rless: networks")
    wait_for(lambda: not hub_processes(rless), "the end of the hub")  # pasta goes with it
    assert not reaches(rless, "web", "db")
    assert lost(rless, "web") == "the network is lost: rless: networks has ended; rless restart web"
    assert status(rless, "web").endswith(" (network lost)|")
    assert rless("port", "web").lines() == []
    # Another hub has no power over the members of this one.
    rless.detach("new", f"--network {net}", "sleep", "60")
    rless("network", "create", "other").expect()
    refused = rless("network", "connect", "other", "web").expect(1)
    assert "the network of container web was killed; rless restart web" in refused.one_line_error()
    rless("network", "disconnect", net, "db").expect()
    rless("network", "connect", net, "db").expect(1)
    rless("rm", "-f", "db").expect()
    rless.detach("db", f"--network {net}", "sleep", "60")
    assert lost(rless, "web")
    rless("restart", "-t", "0", "web", "db").expect()
    assert lost(rless, "web") == ""
    assert reaches(rless, "web", "db")
    rless("rm", "-f", "web", "db", "new").expect()
    rless("network", "rm", "other").expect()
    rless.assert_clean()


def test_killed_pasta_is_reported_and_replaced(rless: Product, net: str) -> None:
    rless.detach("web", f"--network {net}", "sleep", "60")
    host = outward_address()
    outside, port = serve(host)
    rless("network", "create", "--internal", "inner").expect()
    rless.detach("in", "--network inner", "sleep", "60")
    assert lost(rless, "web") == ""
    kill(rless, "pasta")
    said = "the way out is lost: pasta has ended; rless restart web"
    wait_for(lambda: lost(rless, "web") == said, "the end of pasta")
    assert status(rless, "web").endswith(" (network lost)|")
    assert lost(rless, "in") == ""  # it has none
    rless("rm", "-f", "in").expect()
    rless("network", "rm", "inner").expect()
    with outside:
        rless.detach("db", f"--network {net}", "sleep", "60")
        for name in ("web", "db"):  # all of them have a way out again
            assert connects(rless, name, host, port)
            assert lost(rless, name) == ""
    kill(rless, "rless: networks")
    rless("rm", "-f", "web", "db").expect()
    rless("ps").expect()  # it ends the new one
    rless.assert_clean()


def test_killed_monitor_ends_the_membership(rless: Product, net: str) -> None:
    free = images.free_port()
    rless.detach("web", f"--network {net} -p 127.0.0.1:{free}:80", "sh", "-c", SERVE)
    rless.detach("db", f"--network {net}", "sleep", "60")
    kill(rless, f"monitor of {rless('inspect', '-f', '{{.Id}}', 'web').out[:12]}")

    def is_gone() -> bool:
        return not finds(rless, "db", "web") and ("tcp", free) not in listeners(rless)

    wait_for(is_gone, "the end of its name and port")
    rless("start", "web").expect()
    assert finds(rless, "db", "web") == [address(rless, "web")]


def test_many_kills_leave_nothing(rless: Product, net: str) -> None:
    """Commands are killed at any moment; the next ones go on, and then nothing is left."""
    for number in range(12):
        words = ("run", "--rm", "--network", net, "-p", "127.0.0.1::80", rless.image, "sleep", "9")
        process = rless.start(*words)
        time.sleep(0.02 + number * 0.015)
        process.kill()
        process.wait()
    rless.run(f"--network {net}", "true").expect()
    rless("ps").expect()
    rless.assert_clean()
    used = json.loads(rless("network", "inspect", net).out)[0]["Containers"]
    assert used == {}
