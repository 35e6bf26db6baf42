"""`rless kill`: send a signal to containers."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "kill",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (("--signal -s", "SIGNAL", "value", "signal", "signal", "Which signal (SIGKILL)"),),
        ),
    ),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Signal containers; print the name of each that got it."""
    from rootless.engine.manage.stop import kill

    return streams.outcomes(kill(args, values.get("signal", "SIGKILL")))
