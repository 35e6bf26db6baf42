"""`rless network rm`: remove networks."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network rm",
    "[OPTIONS] NETWORK [NETWORK...]",
    (
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean",
                 "Ignore those that do not exist"),
            ),
        ),
    ),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove networks one by one; print the name of each."""
    from rootless.engine.networks import store
    from rootless.engine.state import reconcile

    def action(name: str) -> None:
        try:
            store.remove(store.find(name))
        except RlessError as error:
            if not (values.get("force") and error.message.startswith("no such network")):
                raise
        streams.write(f"{escape(name)}\n")

    reconcile.reconcile()
    return streams.each(args, action)
