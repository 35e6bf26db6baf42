"""`rless volume rm`: remove volumes."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "volume rm",
    "[OPTIONS] VOLUME [VOLUME...]",
    (
        (
            "Options",
            (
                (
                    "--force -f",
                    "",
                    "flag",
                    "force",
                    "boolean",
                    "Ignore those that do not exist",
                ),
            ),
        ),
    ),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove volumes one by one; print the name of each."""
    from rootless.engine.state import volumes

    def action(name: str) -> None:
        try:
            volumes.remove(name)
        except RlessError as error:
            if not (values.get("force") and error.message.startswith("no such volume")):
                raise
        streams.write(f"{escape(name)}\n")

    volumes.clear_leftovers()
    return streams.each(args, action)
