"""`rless service install`: have the user's systemd start the service."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "service install",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--docker-socket", "", "flag", "docker_socket", "boolean",
                 "Make $XDG_RUNTIME_DIR/docker.sock a link to the socket, if nothing is there"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Write the units, start the socket's, and print the address."""
    from rootless.cli.verbs.system.generate_systemd import program
    from rootless.service import listener, units

    path = listener.default_socket()
    if not units.is_installed():
        listener.stop(path)
    units.install(program())
    if values.get("docker_socket"):
        units.link(path)
    streams.write(f"unix://{path}\n")
    return 0
