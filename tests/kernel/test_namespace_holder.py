"""The namespace holder, and the interface it creates (class 38)."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from rootless.errors import SyscallError
from rootless.linux import mount, namespace_holder, ns
from rootless.network import loopback_guard
from tests.kernel.test_serve import in_a_fork
from tests.lib import engine_namespace
from tests.lib.compiled import sanitized_program

pytestmark = pytest.mark.needs("user namespaces")


@pytest.fixture(params=["program", "sanitized"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the namespaces made by the program, or by one with sanitizers."""
    if request.param == "sanitized":
        program = str(sanitized_program("helpers/userns_holder"))
        monkeypatch.setattr(namespace_holder, "own_program", lambda _: program)
    return str(request.param)


def hold(
    flags: int, name: str | None = None, address: str = "", guard: str = "2"
) -> namespace_holder.Holder:
    if name is None:
        return namespace_holder.Holder(flags)

    return namespace_holder.Holder(flags, interface=[name, guard, address])


def enter(held: namespace_holder.Holder) -> None:
    held.begin_maps(engine_namespace.make_map("single"))
    held.enter()
    held.end()


def network() -> dict[str, Any]:
    """Return the interfaces, and the local routes by others than the loopback."""
    with IPRoute() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        up = [names[link["index"]] for link in route.get_links() if link["flags"] & 1]
        routes = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in route.get_routes(family=family, table=255):
                name = names[one.get_attr("RTA_OIF")]
                if name != "lo":
                    place = f"{one.get_attr('RTA_DST') or '::'}/{one['dst_len']}"
                    routes.append([name, place, one["type"], one["scope"], one["proto"]])
    return {"up": sorted(up), "routes": sorted(routes)}


@pytest.mark.needs("tun")
def test_interface_for_pasta_is_created(way: str) -> None:
    address = "02:0a:ff:00:c3:01"

    def case() -> list[Any]:
        enter(hold(ns.CLONE_NEWNET, "eth7", address))
        with IPRoute() as route:
            (link,) = route.get_links(ifname="eth7")
            return [network(), link.get_attr("IFLA_ADDRESS")]

    found, its_address = in_a_fork(case)
    assert its_address == address
    assert found["up"] == ["eth7", "lo"]
    ours = [route for route in found["routes"] if "fe80" not in route[1] and "ff00" not in route[1]]
    local, host, everywhere, static = 2, 254, 0, 4  # of IPv6 the kernel tells no scope
    assert ours == [
        ["eth7", "127.0.0.0/8", local, host, static],
        ["eth7", "::/96", local, everywhere, static],
        ["eth7", "::ffff:0.0.0.0/96", local, everywhere, static],
    ]


def test_loopback_is_up(way: str) -> None:
    def case() -> list[str]:
        enter(hold(ns.CLONE_NEWNET))
        up: list[str] = network()["up"]
        return up

    assert in_a_fork(case) == ["lo"]


def test_existing_network_is_left_alone(way: str) -> None:
    def case() -> dict[str, Any]:
        before = network()
        enter(hold(0))
        assert network() == before
        return {}

    in_a_fork(case)


def refused(name: str, hide: str = "", address: str = "") -> list[Any]:
    """Return the call that failed, the error number, and what it is told as."""

    def case() -> list[Any]:
        enter(hold(0))
        if hide:
            mount.mount(hide, "/dev/net/tun", None, mount.MS_BIND)
        held = hold(ns.CLONE_NEWNET, name, address)
        with pytest.raises(SyscallError) as caught:
            held.wait_made()
        held.close()
        return [caught.value.call, caught.value.errno, loopback_guard.explain(caught.value).message]

    found: list[Any] = in_a_fork(case)
    return found


@pytest.mark.needs("tun")
@pytest.mark.parametrize(
    ("name", "hide", "call", "number"),
    [
        ("eth0", "/dev/null", "TUNSETIFF", errno.ENOTTY),
        ("lo", "", "TUNSETIFF", errno.EINVAL),
        ("a" * 15 + "b", "", "", errno.EINVAL),
    ],
)
def test_failed_interface_is_reported(
    way: str, name: str, hide: str, call: str, number: int
) -> None:
    found, error, told = refused(name, hide)
    assert call in found
    assert error == number
    assert told.startswith("the default network needs /dev/net/tun: ioctl(")


@pytest.mark.needs("tun")
def test_wrong_address_is_refused(way: str) -> None:
    _, error, told = refused("eth0", address="01:00:5e:00:00:01")
    assert error == errno.EADDRNOTAVAIL
    assert told == "--ns-mac-addr: this cannot be the address of one interface"


def test_failed_namespaces_are_reported(way: str) -> None:
    """As before, that is told as what makes them, whatever of it failed."""

    def case() -> list[Any]:
        enter(hold(0))
        Path("/proc/sys/user/max_net_namespaces").write_text("0")
        held = hold(ns.CLONE_NEWNET, "eth0")
        with pytest.raises(SyscallError) as caught:
            held.wait_made()
        held.close()
        return [caught.value.call, caught.value.errno]

    assert in_a_fork(case) == ["unshare", errno.ENOSPC]


def test_descriptors_of_one_that_was_begun_are_not_passed_on() -> None:
    """They stay open over the launcher's execve; a program that we start must not hold them."""
    status, release = os.pipe(), os.pipe()
    flags = ns.CLONE_NEWUSER | ns.CLONE_NEWNS | ns.CLONE_NEWNET
    words = ["rless-userns-holder", str(status[1]), str(release[0]), str(flags), "-1"]
    kept = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (status[1], release[0])]
    program = namespace_holder.own_program(words[0])
    pid = os.posix_spawn(program, words, {}, file_actions=kept)
    for fd in (status[1], release[0]):
        os.close(fd)
    for fd in (status[0], release[1]):
        os.set_inheritable(fd, True)
    begun = f"{pid} {status[0]} {release[1]}"
    held = namespace_holder.Holder(ns.CLONE_NEWNET, begun=begun)
    assert held.pid == pid
    assert not any(os.get_inheritable(fd) for fd in (status[0], release[1]))
    held.wait_made()
    held.close()


@pytest.mark.needs("tun", "strace")
@pytest.mark.parametrize(
    ("guard", "said"), [("1", b"+"), ("2", b"2 netlink(RTM_NEWQDISC)")], ids=["try", "require"]
)
def test_failed_guard_is_reported_where_it_is_required(
    way: str, guard: str, said: bytes, tmp_path: Path
) -> None:
    """Class 38: the fifth write asks the kernel for what the guard is attached to."""
    (status_fd, status), (release, release_fd) = os.pipe(), os.pipe()
    flags = ns.CLONE_NEWUSER | ns.CLONE_NEWNS | ns.CLONE_NEWNET
    program = str(namespace_holder.own_program(namespace_holder._PROGRAM))
    inject = ["strace", "-o", tmp_path / "log", "-e", "inject=write:error=ENOENT:when=5"]
    words = [program, *map(str, (status, release, flags, -1))]
    done = subprocess.Popen([*inject, *words], pass_fds=(status, release))
    os.close(status)
    os.close(release)
    assert os.read(status_fd, 100) == b"+"
    os.write(release_fd, f"eth0 {guard} ".encode())
    assert os.read(status_fd, 100) == said
    os.close(release_fd)
    done.wait()
    os.close(status_fd)
    assert "INJECTED" in (tmp_path / "log").read_text()


def test_missing_guard_is_explained() -> None:
    told = loopback_guard.explain(SyscallError("netlink(RTM_NEWTFILTER)", errno.ENOENT))
    assert told.message.startswith("NET_RAW with the default network needs sch_ingress and cls_bpf")
    assert told.hint
    assert "modprobe -a sch_ingress cls_bpf" in told.hint
