"""`rless kill`: send a signal to containers."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

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
    """Signal containers one by one; print the name of each that got it."""
    from rootless.engine.control import kill

    def action(name: str) -> None:
        kill(name, values.get("signal", "SIGKILL"))
        streams.write(f"{escape(name)}\n")

    return streams.each(args, action)
