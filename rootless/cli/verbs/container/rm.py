"""`rless rm`: remove containers."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

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
    return streams.outcomes(remove(args, force, bool(values.get("volumes"))), missing_is_fine=force)
