"""`rless logs`: show what a container wrote."""

from __future__ import annotations

from typing import Any

from rootless.cli.flags.values import count
from rootless.cli.parse import Verb

VERB = Verb(
    "logs",
    "[OPTIONS] CONTAINER",
    (
        (
            "Options",
            (
                ("--details", "", "flag", "details", "boolean",
                 "Show the labels that the log options name"),
                ("--follow -f", "", "flag", "follow", "boolean",
                 "Follow the output until the container ends"),
                ("--since", "TIME", "value", "since", "timestamps.moment",
                 ("Only from this time on: 2026-01-31T12:00:00, seconds since 1970, or "
                  "10m for ten minutes ago")),
                ("--tail -n", "N", "value", "tail", "container.logs.lines",
                 "Only the last N lines, or all (default)"),
                ("--timestamps -t", "", "flag", "timestamps", "boolean",
                 "Show when each line was written"),
                ("--until", "TIME", "value", "until", "timestamps.moment", "Only until this time"),
            ),
        ),
    ),
    least=1,
    most=1,
)  # fmt: skip


def lines(value: str) -> int | None:
    """Return how many lines; None for all of them."""
    number = -1 if value == "all" else count(value)
    return None if number < 0 else number


def main(values: dict[str, Any], args: list[str]) -> int:
    """Copy the log to standard output and error, byte by byte as it was written."""
    from rootless.engine.query.logs import LogOptions, show

    options = LogOptions()
    for name in ("follow", "since", "until", "tail", "timestamps", "details"):
        if name in values:
            setattr(options, name, values[name])
    show(args[0], options, 1, 2)
    return 0
