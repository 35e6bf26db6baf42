"""A network namespace that plays the host, for tests that an ordinary user runs.

`run` forks a child into a user, mount and network namespace of its own, with the interfaces
that are asked for, and calls a function there. pasta and the container then live inside it:
what the test sends stays there. Only ioctls, so that the tests need no tool for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Any

from rootless.linux import idmap, mount, ns
from rootless.linux.idmap import IdMap
from rootless.linux.network import netlink
from rootless.network import pasta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ADDRESS, GATEWAY = "192.0.2.2", "192.0.2.1"  # of the interface with the default route
OTHER_ADDRESS = "198.51.100.1"  # of another interface: "a machine somewhere"
ADDRESS6, OTHER_ADDRESS6 = "2001:db8:1::2", "2001:db8:2::1"
GATEWAY6 = "2001:db8:1::1"

_TUNSETIFF, _IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 1, 2, 0x1000
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C


def own_map() -> IdMap:
    """Return the map of one id, the caller's, to itself."""
    return IdMap([(os.getuid(), os.getuid(), 1)], [(os.getgid(), os.getgid(), 1)], "test")


class Host:
    """What a fake host shall have."""

    def __init__(
        self,
        *,
        ipv4: bool = True,
        ipv6: bool = False,
        default_route: bool = True,
        tunnel: bool = False,
        resolv: str = "nameserver 198.51.100.1\n",
    ) -> None:
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.default_route = default_route
        self.tunnel = tunnel
        self.resolv = resolv


def run(host: Host, function: Callable[[], Any], directory: os.PathLike[str]) -> Any:
    """Call `function` on a fake host; return its JSON-able result."""

    def body() -> Any:
        try:
            devices = _build(host, directory)
            result = function()
            for fd in devices:
                os.close(fd)
            return result
        except BaseException:
            traceback.print_exc()  # pytest shows it: the parent gets one line only
            sys.stderr.flush()
            raise

    return idmap.call_in_userns(own_map(), body, namespaces=ns.CLONE_NEWNS | ns.CLONE_NEWNET)


def _build(host: Host, directory: os.PathLike[str]) -> list[int]:
    netlink.loopback_up()
    devices = []
    kind = _IFF_TUN if host.tunnel else _IFF_TAP
    for name, address, address6 in (
        ("up0", ADDRESS, ADDRESS6),
        ("up1", OTHER_ADDRESS, OTHER_ADDRESS6),
    ):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | _IFF_NO_PI))
        devices.append(fd)
        # No duplicate address detection: an address is there at once.
        with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w", encoding="ascii") as file:
            file.write("0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            if host.ipv4:
                _ioctl(control, _SIOCSIFADDR, name, _sockaddr(address))
                _ioctl(control, _SIOCSIFNETMASK, name, _sockaddr("255.255.255.0"))
            _ioctl(control, _SIOCSIFFLAGS, name, struct.pack("H14x", 0x1))
        if host.ipv6:
            index = socket.if_nametoindex(name)
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
                packed = socket.inet_pton(socket.AF_INET6, address6)
                fcntl.ioctl(control, _SIOCSIFADDR, packed + struct.pack("Ii", 64, index))
    if host.default_route:
        _add_default_routes(host)
    path = os.path.join(directory, "resolv.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(host.resolv)
    mount.mount(path, os.path.realpath("/etc/resolv.conf"), None, mount.MS_BIND)
    return devices


def _add_default_routes(host: Host) -> None:
    if host.ipv4:
        # struct rtentry: pad, destination, gateway, mask, flags (up, gateway), ..., device
        any_address = _sockaddr("0.0.0.0")
        route = struct.pack(
            "@L16s16s16sHhLPhPLLH",
            *(0, any_address, _sockaddr(GATEWAY), any_address, 0x3, 0, 0, 0, 0, 0, 0, 0, 0),
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCADDRT, route)
    if host.ipv6:
        # struct in6_rtmsg: destination, source, gateway, type, lengths, metric, info, flags, index
        gateway = socket.inet_pton(socket.AF_INET6, GATEWAY6)
        route = struct.pack(
            "@16s16s16sIHHILIi",
            *(bytes(16), bytes(16), gateway, 0, 0, 0, 1024, 0, 0x3, socket.if_nametoindex("up0")),
        )
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCADDRT, route)


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _ioctl(control: socket.socket, request: int, name: str, argument: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16s16s8x", name.encode(), argument))


def make_interface(name: str, address: str = "") -> None:
    """Make what pasta attaches to, as helpers/userns_holder/network.c does."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("add", ifname=name, kind="tuntap", mode="tap")
        (index,) = route.link_lookup(ifname=name)
        if address:
            route.link("set", index=index, address=address)
        route.link("set", index=index, state="up")
        prefixes = ["127.0.0.0/8", "::/96", "::ffff:0.0.0.0/96"]
        if not os.path.exists("/proc/sys/net/ipv6") or _is_off(name):
            prefixes = prefixes[:1]
        for prefix in prefixes:
            scope = "host" if "." in prefix and ":" not in prefix else "universe"
            place = {"dst": prefix, "oif": index, "type": "local", "table": 255, "scope": scope}
            route.route("append", **place)  # the loopback has some of them


def _is_off(name: str) -> bool:
    with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", encoding="ascii") as file:
        return file.read().strip() == "1"


class Container:
    """A process in a network namespace of its own, on the fake host."""

    def __init__(self, pid: int, go: int, answers: int) -> None:
        self.pid = pid
        self.netns = f"/proc/{pid}/ns/net"
        self.userns = f"/proc/{pid}/ns/user"
        self._go = go
        self._answers = answers

    def run(self) -> Any:
        """Let the process call its function; return the (JSON-able) result."""
        import json

        os.write(self._go, b"g")
        with open(self._answers, encoding="utf-8", closefd=False) as stream:
            text = stream.read()
        assert text, "the container's function failed: see above"
        return json.loads(text)

    def end(self) -> None:
        """End the process and its namespaces."""
        os.close(self._go)
        os.close(self._answers)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def container(
    function: Callable[[], Any] = lambda: None,
    prepare: Callable[[], None] = lambda: make_interface("eth0"),
) -> Iterator[Any]:
    """Make a container that calls `function` when its `run` is called.

    Args:
        prepare: its network, before pasta comes to it.
    """
    import json

    go_reader, go_writer = os.pipe()
    answer_reader, answer_writer = os.pipe()

    def body() -> Any:
        try:
            os.close(go_writer)
            os.close(answer_reader)
            netlink.loopback_up()
            prepare()
            os.write(answer_writer, b"\n")
            if os.read(go_reader, 1):
                answer = json.dumps(function())
                os.write(answer_writer, answer.encode())
            os.close(answer_writer)
            os.read(go_reader, 1)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(0)

    pid = idmap.spawn(own_map(), ns.CLONE_NEWNS | ns.CLONE_NEWNET, body)
    os.close(go_reader)
    os.close(answer_writer)
    made = Container(pid, go_writer, answer_reader)
    # As in a start: pasta comes to an interface that is there, and that nobody holds any more.
    os.read(answer_reader, 1)
    try:
        yield made
    finally:
        made.end()


def start_pasta(
    netns: str, userns: str, network: pasta.Pasta | None = None, die_with_parent: bool = False
) -> pasta.Pasta:
    """Start pasta for namespaces that exist and are mapped; don't wait for it."""
    running = network or pasta.prepare([])
    running.fork(die_with_parent)
    running.begin(netns, userns)
    return running


@contextlib.contextmanager
def connected(
    function: Callable[[], Any] = lambda: None,
    ports: Sequence[Any] = (),
    options: Sequence[str] = (),
    *,
    shielded: bool = True,
    ipv6: bool = True,
) -> Iterator[Any]:
    """Make a container with a running pasta; `container.pasta` is it.

    Args:
        shielded: pasta comes to an interface that is there, as in a start.
        ipv6: the container has it.
    """
    running = pasta.prepare(ports, options)

    def prepare() -> None:
        if not ipv6:
            for name in ("all", "default"):
                path = f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
                with open(path, "w", encoding="ascii") as file:
                    file.write("1")
        if shielded:
            make_interface(running.interface, running.mac)

    with container(function, prepare) as made:
        start_pasta(made.netns, made.userns, running, die_with_parent=True)
        try:
            running.wait_ready()
            made.pasta = running
            yield made
        finally:
            running.stop(wait=True)
