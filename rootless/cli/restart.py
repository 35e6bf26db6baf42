"""`rless restart`: stop containers and start them again."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "restart",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--timeout --time -t", "SECONDS", "value", "timeout", "seconds",
                 "How long to wait before the kill (10); -1: for ever"),
                ("--signal -s", "SIGNAL", "value", "signal", "signal",
                 "Ask by this signal, not by the container's own"),
            ),
        ),
    ),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Restart containers; print the name of each that runs again."""
    from rootless.engine.stop import restart

    return streams.outcomes(restart(args, values.get("timeout"), values.get("signal")))
