"""`rless stop`: ask containers to end, and kill them after a while."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    (
        "Options",
        (
            ("--timeout --time -t", "SECONDS", "value", "timeout", "seconds",
             "How long to wait before killing them (10); -1: for ever"),
            ("--signal -s", "SIGNAL", "value", "signal", "signal",
             "Send this signal, not the container's own"),
        ),
    ),
)  # fmt: skip

VERB = Verb("stop", "[OPTIONS] CONTAINER [CONTAINER...]", OPTIONS, least=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Stop containers, all at once; print the name of each that ended."""
    from rootless.engine.manage.stop import stop

    return streams.outcomes(stop(args, values.get("timeout"), values.get("signal")))
