"""`rless service start`: have the service start when a client connects."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "service start",
    "[SOCKET]",
    most=1,
    examples=(("Let clients come, until you stop it", "rless service start"),),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Leave somebody behind who listens, and print the address."""
    from rootless.service import listener

    path = listener.path_of(args[0] if args else None)
    listener.ensure(path)
    streams.write(f"unix://{path}\n")
    return 0
