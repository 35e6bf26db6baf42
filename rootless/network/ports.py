"""Published ports: whether they can be had, found out before anything is started."""

from __future__ import annotations

import _socket  # `socket` takes 8 ms for its enums
import errno

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Port(Protocol):
        """What is asked of a published port (`rootless.engine.request.Port`)."""

        host_ip: str | None
        host_port: int | None
        container_port: int
        protocol: str


_FREE_PORT_ATTEMPTS = 16  # a number that is free for IPv4 may be taken for IPv6
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def take(ports: Sequence[Port]) -> None:
    """Check that each port can be had, by taking it for a moment.

    pasta is content if it gets a port for one of the two families: the other one's connections
    would go to whatever program has it. And its own message does not say why. A port without a
    host port gets a free one: its `host_port` is set.

    Raises:
        RlessError: a port is taken or given twice, below the range that users may take, or on
            an address that this host does not have.
    """
    _check_twice(ports)
    held: list[_socket.socket] = []
    try:
        for port in ports:
            attempts = 1 if port.host_port else _FREE_PORT_ATTEMPTS
            while True:
                attempts -= 1
                sockets = list(held)
                try:
                    number = _bind(port, sockets)
                    break
                except OSError as error:
                    for socket in sockets[len(held) :]:
                        socket.close()
                    if not attempts:
                        raise _port_error(port, error) from error
            held = sockets
            port.host_port = number
    finally:
        for socket in held:
            socket.close()


def _check_twice(ports: Sequence[Port]) -> None:
    seen: dict[tuple[str, int], set[str | None]] = {}
    for port in ports:
        if port.host_port:
            addresses = seen.setdefault((port.protocol, port.host_port), set())
            if port.host_ip in addresses or (addresses and None in (port.host_ip, *addresses)):
                raise RlessError(f"cannot publish on {_where(port)}: it is given twice")
            addresses.add(port.host_ip)


def _where(port: Port) -> str:
    return f"{port.host_ip or 'any address'}, port {port.host_port}/{port.protocol}"


def _bind(port: Port, held: list[_socket.socket]) -> int:
    """Bind a port for all its addresses; append the sockets to `held`, return the number."""
    number = port.host_port or 0
    kind = _socket.SOCK_DGRAM if port.protocol == "udp" else _socket.SOCK_STREAM
    for address in [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]:
        family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        try:
            socket = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
        except OSError:
            continue  # no IPv6 in this kernel
        held.append(socket)
        if kind == _socket.SOCK_STREAM:  # as pasta does: a connection that has ended is no bar
            socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        try:
            socket.bind((address, number))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and not port.host_ip:
                continue  # IPv6 is switched off
            raise
        number = number or socket.getsockname()[1]
    return number


def _port_error(port: Port, error: OSError) -> RlessError:
    where = _where(port)
    if error.errno == errno.EADDRINUSE:
        return RlessError(
            f"cannot publish on {where}: it is taken",
            "publish on another port, or see by `ss -lntup` who has it",
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
