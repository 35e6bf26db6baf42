"""`rless service env`: print the variables by which clients find the service."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "service env",
    "[SOCKET]",
    most=1,
    examples=(("Set them in this shell", 'eval "$(rless service env)"'),),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print them as a shell reads them; the service starts when a client connects."""
    from rootless.service import listener

    path = listener.path_of(args[0] if args else None)
    listener.ensure(path)
    streams.write(listener.shell_text(listener.variables(path)))
    return 0
