"""`rless service`: serve Docker's API on a unix socket."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "service",
    "[OPTIONS] [SOCKET]",
    (
        (
            "Options",
            (
                ("--time -t", "SECONDS", "value", "time", "seconds",
                 "End after this time without a client (30); 0: never"),
            ),
        ),
    ),
    most=1,
    examples=(
        ("Serve until you press ^C", "rless service --time 0"),
    ),
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Serve until nobody has been there for a while."""
    try:
        from rootless.service import listener
        from rootless.service import main as service
    except ImportError as error:
        if error.name != "h11":
            raise
        raise RlessError(
            "the service needs the Python package h11, which is not installed",
            "install it: `pip install h11`, or your distribution's python3-h11",
        ) from error
    idle = float(values.get("time", listener.IDLE))
    given = listener.inherited()
    if given is not None:
        return service.serve(given.getsockname(), idle, given)
    path = listener.path_of(args[0] if args else None)
    return service.serve(path, idle, tell=lambda: streams.write(f"unix://{path}\n"))
