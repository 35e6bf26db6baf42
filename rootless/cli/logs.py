"""`rless logs`: show what a container wrote."""

from __future__ import annotations

from typing import Any

from rootless.cli.parse import Verb

VERB = Verb(
    "logs",
    "[OPTIONS] CONTAINER",
    (
        (
            "Options",
            (("--follow -f", "", "flag", "follow", "boolean", "Go on until the container ends"),),
        ),
    ),
    (
        ("--tail -n", "N", "not built yet", "use tail(1)"),
        ("--since", "TIME", "not built yet", ""),
        ("--until", "TIME", "not built yet", ""),
        ("--timestamps -t", "", "not built yet", ""),
        ("--details", "", "the log has no attributes", ""),
    ),
    least=1,
    most=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Copy the log to standard output and error, byte by byte as it was written."""
    from rootless.engine.control import logs

    logs(args[0], bool(values.get("follow")), 1, 2)
    return 0
