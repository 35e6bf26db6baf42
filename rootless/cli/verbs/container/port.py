"""`rless port`: the published ports of a container."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("port", "CONTAINER [PRIVATE_PORT[/PROTO]]", least=1, most=2)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print "80/tcp -> 0.0.0.0:8080" for each, or only the host's side of the one asked for."""
    from rootless.engine.query.inspect import split_port
    from rootless.engine.query.ps import LIVING, describe
    from rootless.engine.state.container import find

    container = find(args[0])
    status, code = container.status()
    ports = describe(container, status, code)["ports"] if status in LIVING else []
    found = sorted((split_port(text) for text in ports), key=_order)
    shown = [
        (port, f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}") for port, ip, number in found
    ]
    if len(args) == 1:
        streams.write("".join(f"{port} -> {host}\n" for port, host in shown))
        return 0
    number, _, protocol = args[1].partition("/")
    wanted = f"{number}/{protocol or 'tcp'}"
    if not number.isdigit() or protocol not in ("", "tcp", "udp", "sctp"):
        raise RlessError(f"{args[1]!r} is not a port", "expected PORT[/PROTO]", 1)
    hosts = [host for port, host in shown if port == wanted]
    if not hosts:
        raise RlessError(f"no public port {wanted} published for {escape(args[0])}", exit_code=1)
    streams.write("".join(f"{host}\n" for host in hosts))
    return 0


def _order(port: tuple[str, str, str]) -> tuple[int, str, str]:
    number, _, protocol = port[0].partition("/")
    return int(number) if number.isdigit() else 0, protocol, port[1]
