"""`rless wait`: wait until containers end, and print their exit codes."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "wait",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--condition", "CONDITION", "value", "condition", "container.wait.condition",
                 "not-running (default), next-exit or removed"),
            ),
        ),
    ),
    least=1,
)  # fmt: skip


def condition(value: str) -> str:
    """Return what is waited for."""
    return choice(value, "not-running", "next-exit", "removed")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Wait for each; print the exit codes in the order of the names."""
    from rootless.engine.manage.wait import wait

    result = 0
    for code, error in wait(args, values.get("condition", "not-running")):
        if error is None:
            streams.write(f"{code}\n")
        else:
            result = streams.report(error)
    return result
