"""`rless rm`: remove containers."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "rm",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean", "Kill running containers first"),
                ("--volumes -v", "", "flag", "volumes", "boolean",
                 "Also remove their anonymous volumes"),
                ("--time -t", "SECONDS", "value", "timeout", "seconds",
                 "With --force, stop them as `stop --timeout` does, before they are killed"),
            ),
        ),
    ),
    (("--link -l", "", "there are no links", ""),),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove containers, all at once; print the name of each that went."""
    from rootless.engine.manage.remove import remove

    force = bool(values.get("force"))
    if "timeout" in values:
        if not force:
            raise RlessError("--time is for running containers", "use --force --time SECONDS")
        from rootless.engine.manage.stop import stop

        list(stop(args, values["timeout"]))  # what cannot be stopped is told by the removal
    return streams.outcomes(remove(args, force, bool(values.get("volumes"))), missing_is_fine=force)
