"""`rless stop`: ask containers to end, and kill them after a while."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "stop",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--timeout --time -t", "SECONDS", "value", "timeout", "seconds",
                 "How long to wait before the kill (10); -1: for ever"),
            ),
        ),
    ),
    (("--signal -s", "SIGNAL", "not built yet", "use rless kill --signal"),),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Stop containers one by one; print the name of each that ended."""
    from rootless.engine.control import stop

    def action(name: str) -> None:
        stop(name, values.get("timeout"))
        streams.write(f"{escape(name)}\n")

    return streams.each(args, action)
