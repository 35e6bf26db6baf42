"""Published ports: reserved before anything is started, so that a conflict is found early.

Theory of operation. Each port is bound here, and the socket is kept until the program that
publishes the port has bound it too. So no other process gets it in between; otherwise the kernel
would choose a free port of ours again for the next caller. SO_REUSEADDR allows two sockets on a
port while neither listens. We set it after our own bind, which therefore fails if another process
has bound the port.
"""

from __future__ import annotations

import _socket  # `socket` takes 8 ms for its enums
import errno
import os

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Protocol

    class Port(Protocol):
        """What is asked of a published port (`rootless.engine.request.Port`)."""

        host_ip: str | None
        host_port: int | None
        host_end: int | None
        container_port: int
        protocol: str


_FREE_PORT_ATTEMPTS = 16  # a number that is free for IPv4 may be taken for IPv6
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_SPARE_DESCRIPTORS = 64  # for all else that this process has open


class Taken:
    """Ports that are kept for the program that will publish them.

    Attributes:
        shown: each as "0.0.0.0:8080->80/tcp", one for each family; what `ps` and `port` tell.
    """

    __slots__ = ("_fds", "_targets", "shown")

    def __init__(self) -> None:
        self.shown: list[str] = []
        self._fds: list[int] = []
        self._targets: list[int] = []

    def sockets(self) -> Iterator[tuple[int, int]]:
        """Yield (container's port, bound socket) for who publishes them with these very sockets."""
        return zip(self._targets, self._fds, strict=True)

    def add(self, port: Port, number: int, sockets: Sequence[_socket.socket]) -> None:
        """Take over the sockets that are bound to a port."""
        for socket in sockets:
            address = socket.getsockname()[0]
            host = f"[{address}]" if ":" in address else address
            self.shown.append(f"{host}:{number}->{port.container_port}/{port.protocol}")
            self._fds.append(socket.detach())
            self._targets.append(port.container_port)

    def move(self, lowest: int) -> None:
        """Give the descriptors numbers from `lowest` on."""
        import fcntl

        for index, fd in enumerate(self._fds):
            self._fds[index] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
            os.close(fd)

    def close(self) -> None:
        """Keep them no longer."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []


def exposed(texts: Iterable[str]) -> list[str]:
    """Return "80/tcp" for each port of "80", "90-99/udp": EXPOSE of an image, --expose."""
    found = set()
    for text in texts:
        span, _, protocol = text.partition("/")
        low, _, high = span.partition("-")
        if low.isdigit() and (high or low).isdigit():
            for number in range(int(low), min(int(high or low), 65535) + 1):
                found.add((number, protocol or "tcp"))
    return [f"{number}/{protocol}" for number, protocol in sorted(found)]


def take(ports: Sequence[Port]) -> Taken:
    """Take each port, and keep it until the result is closed.

    pasta is content if it gets a port for one of the two families: the other one's connections
    would go to whatever program has it. And its own message does not say why. A port without a
    host port, or with a range of them, gets a free one: its `host_port` is set.

    Raises:
        RlessError: a port is taken or given twice, below the range that users may take, or on
            an address that this host does not have.
    """
    _check_twice(ports)
    taken = Taken()
    limits = _make_room(2 * len(ports))
    try:
        # Those with a number first, so that none of the others is given it.
        for port in sorted(ports, key=_freedom):
            number, sockets = _take_one(port)
            port.host_port, port.host_end = number, None
            taken.add(port, number, sockets)
        if limits:
            taken.move(limits[0])
    except BaseException:
        taken.close()
        raise
    finally:
        if limits:
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    taken.shown.sort(key=_order)
    return taken


def _freedom(port: Port) -> int:
    return 2 if not port.host_port else 1 if port.host_end else 0


def _order(shown: str) -> tuple[str, int, bool]:
    inner = shown.rpartition("->")[2]
    number, _, protocol = inner.partition("/")
    return protocol, int(number), shown.startswith("[")


def _make_room(count: int) -> tuple[int, int] | None:
    """Raise the limit of descriptors for a while; return the old one if that was necessary."""
    if count < _SPARE_DESCRIPTORS:
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = soft + count + _SPARE_DESCRIPTORS
    if resource.RLIM_INFINITY in (soft, hard):
        return None
    if needed > hard:
        raise RlessError(
            f"cannot publish {count // 2} ports: the limit of descriptors is {hard}",
            "publish fewer, or raise it (ulimit -n)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return soft, hard


def _take_one(port: Port) -> tuple[int, list[_socket.socket]]:
    """Bind one port; return its number on the host, and the sockets."""
    if port.host_port and port.host_end:
        numbers = list(range(port.host_port, port.host_end + 1))
    else:
        numbers = [port.host_port] if port.host_port else [0] * _FREE_PORT_ATTEMPTS
    # A connection that has ended is no bar (TIME_WAIT); it is for pasta neither.
    ways = (False, True) if port.protocol == "tcp" else (False,)
    error: OSError | None = None
    for reuse in ways:
        for number in numbers:
            try:
                return _bind(port, number, reuse)
            except OSError as failure:
                error = failure
                if failure.errno != errno.EADDRINUSE:
                    raise _port_error(port, failure) from failure
    assert error is not None
    raise _port_error(port, error) from error


def _bind(port: Port, number: int, reuse: bool) -> tuple[int, list[_socket.socket]]:
    """Bind a number, 0 for any free one, for all addresses of a port."""
    sockets: list[_socket.socket] = []
    kind = _socket.SOCK_DGRAM if port.protocol == "udp" else _socket.SOCK_STREAM
    try:
        for address in [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]:
            family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
            try:
                socket = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and not port.host_ip:
                    continue  # no IPv6 in this kernel
                raise
            sockets.append(socket)
            if reuse:
                socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            if family == _socket.AF_INET6:
                socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            try:
                socket.bind((address, number))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and not port.host_ip:
                    sockets.pop().close()  # IPv6 is switched off
                    continue
                raise
            socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            number = number or socket.getsockname()[1]
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return number, sockets


def _check_twice(ports: Sequence[Port]) -> None:
    seen: dict[tuple[str, int], list[Port]] = {}
    for port in ports:
        if port.host_port and not port.host_end:
            others = seen.setdefault((port.protocol, port.host_port), [])
            if any(_overlap(port.host_ip, other.host_ip) for other in others):
                raise RlessError(f"cannot publish on {_where(port)}: it is given twice")
            others.append(port)


def _overlap(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return True
    return (":" in one) == (":" in other) and bool({one, other} & {"0.0.0.0", "::"})


def _where(port: Port) -> str:
    number = f"{port.host_port}-{port.host_end}" if port.host_end else f"{port.host_port}"
    return f"{port.host_ip or 'any address'}, port {number}/{port.protocol}"


def _port_error(port: Port, error: OSError) -> RlessError:
    where = _where(port)
    if error.errno == errno.EADDRINUSE:
        if not port.host_port:
            return RlessError(f"cannot publish port {port.container_port}: no port is free")
        return RlessError(
            f"cannot publish on {where}: it is taken",
            "publish on another port; `rless ps` or `ss -lntup` shows who has it",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return RlessError(f"cannot publish on {where}: this host does not have the address")
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            with open(_PORT_START, encoding="utf-8") as file:
                first = file.read().strip()
        except OSError:
            first = "1024"
        return RlessError(
            f"cannot publish on {where}: users may take ports from {first} on",
            f"publish on a higher port, or ask the administrator for "
            f"`sysctl net.ipv4.ip_unprivileged_port_start={port.host_port}`",
        )
    return RlessError(f"cannot publish on {where}: {error.strerror}")
