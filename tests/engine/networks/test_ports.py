"""-p and -P: published ports as ps, port and inspect show them."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.lib import images
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "tun", "pasta")

SERVE = "while :; do echo hello | nc -l -p 80; done"


def ports_of(rless: Product, name: str) -> dict[str, Any]:
    template = "{{json .NetworkSettings.Ports}}"
    return json.loads(rless("inspect", "-f", template, name).expect().out)


def number_of(rless: Product, name: str, port: str) -> int:
    return int(rless("port", name, port).expect().lines()[0].rpartition(":")[2])


def answers(port: int, address: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((address, port), 5) as client:
            client.settimeout(5)
            return client.recv(10) == b"hello\n"
    except (ConnectionError, TimeoutError):
        return False


def test_random_ports_and_ranges_are_shown_as_they_are(rless: Product) -> None:
    """They are true in port, inspect and ps, and other ones after the next start."""
    free = images.free_port()
    flags = f"--network pasta -p 80 -p 127.0.0.1::81/udp -p 127.0.0.1:{free}-{free + 9}:82"
    rless.detach("web", flags, "sh", "-c", SERVE)
    port = number_of(rless, "web", "80")
    assert answers(port)
    found = ports_of(rless, "web")
    assert found["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": str(port)}
    assert found["81/udp"][0]["HostIp"] == "127.0.0.1"
    assert free <= int(found["82/tcp"][0]["HostPort"]) <= free + 9
    assert f"0.0.0.0:{port}->80/tcp" in rless("ps", "--format", "{{.Ports}}").out
    asked = rless("inspect", "-f", "{{json .HostConfig.PortBindings}}", "web").expect().out
    assert json.loads(asked) == {
        "80/tcp": [{"HostIp": "", "HostPort": ""}],
        "81/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
        "82/tcp": [{"HostIp": "127.0.0.1", "HostPort": f"{free}-{free + 9}"}],
    }
    # A second one at the same time has other ports.
    rless.detach("other", flags, "sleep", "60")
    assert number_of(rless, "other", "80") != port
    assert number_of(rless, "other", "82") != number_of(rless, "web", "82")
    rless("stop", "-t", "0", "web").expect()
    assert rless("port", "web").out == ""
    assert ports_of(rless, "web") == {}
    with socket.socket() as taker:  # else the kernel could give it again
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("0.0.0.0", port))
        taker.listen()
        rless("start", "web").expect()
        now = number_of(rless, "web", "80")
        assert now != port
        assert answers(now)
    rless("rm", "-f", "web", "other").expect()


def test_ranges_are_shown_as_ranges(rless: Product) -> None:
    free = 20000 + images.free_port() % 10000
    for first in range(free, free + 1000, 10):  # a place for ten neighbours
        flags = f"--network pasta -p 127.0.0.1:{first}-{first + 9}:80-89"
        done = rless("run", "-d", "--name", "web", *flags.split(), rless.image, "sleep", "60")
        if done.code == 0:
            break
        assert "is taken" in done.one_line_error()
    shown = rless("ps", "--format", "{{.Ports}}").expect().out
    assert shown == f"127.0.0.1:{first}-{first + 9}->80-89/tcp\n"
    rless("rm", "-f", "web").expect()


def test_publish_all_publishes_every_exposed_port(rless: Product) -> None:
    """Each exposed port of the image and of --expose, but for those that -p names."""
    ports: dict[str, Any] = {"80/tcp": {}, "53/udp": {}, "9/sctp": {}}
    image = rless.add_image("exposing", probe_image(ExposedPorts=ports))
    free = images.free_port()
    flags = f"-P --network pasta --expose 90-91 -p 127.0.0.1:{free}:90"
    done = rless("run", "-d", "--name", "all", *flags.split(), image, "sh", "-c", SERVE).expect()
    assert "port 9/sctp is not published" in done.err
    found = ports_of(rless, "all")
    assert found["90/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(free)}]
    assert found["9/sctp"] is None
    assert set(found) == {"80/tcp", "53/udp", "9/sctp", "90/tcp", "91/tcp"}
    assert answers(number_of(rless, "all", "80"))
    assert number_of(rless, "all", "53/udp")
    host = rless("inspect", "-f", "{{.HostConfig.PublishAllPorts}}", "all").expect()
    assert host.out == "true\n"
    rless("rm", "-f", "all").expect()
    rless("rmi", image).expect()


def test_taken_and_privileged_ports_are_refused(rless: Product) -> None:
    free = images.free_port()
    rless.detach("web", f"--network pasta -p {free}:80", "sleep", "60")
    for where in (str(free), f"127.0.0.1:{free}", f"[::1]:{free}"):
        error = rless.run(f"--network pasta -p {where}:80", "true").expect(125).one_line_error()
        assert f"port {free}/tcp: it is taken; " in error
        assert "rless ps" in error
    rless.run(f"--network pasta -p {free}:80/udp", "true").expect()
    rless("rm", "-f", "web").expect()
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        first = int(file.read())
    if first > 1:
        error = rless.run(f"--network pasta -p {first - 1}:80", "true").expect(125).one_line_error()
        assert f"sysctl net.ipv4.ip_unprivileged_port_start={first - 1}" in error
