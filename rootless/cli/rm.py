"""`rless rm`: remove containers."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "rm",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (("--force -f", "", "flag", "force", "boolean", "Kill those that still run"),),
        ),
    ),
    (
        ("--volumes -v", "", "removing anonymous volumes alone is not built yet", ""),
        ("--link -l", "", "there are no links", ""),
    ),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove containers one by one; print the name of each that went."""
    from rootless.engine.control import remove

    def action(name: str) -> None:
        remove(name, bool(values.get("force")))
        streams.write(f"{escape(name)}\n")

    return streams.each(args, action)
