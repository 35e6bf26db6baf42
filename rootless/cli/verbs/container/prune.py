"""`rless container prune`: remove the containers that do not run."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.cli.verbs.volume.prune import listed, reclaimed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "container prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by until, label, label!"),
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Ask, remove, and print what went and how much room that made."""
    from rootless.cli.confirm import confirmed
    from rootless.engine.manage import prune
    from rootless.engine.query import filters

    given = filters.parse(values.get("filters", ()), ("until", "label", "label!"))
    prune.until(given)
    if not values.get("force") and not confirmed(
        "WARNING! This will remove all stopped containers."
    ):
        return 0  # as Docker and Podman
    gone = prune.containers(given)
    for error in gone.failures:
        streams.report(error)
    streams.write(listed("Deleted Containers:", gone.names) + reclaimed(gone.size))
    return 1 if gone.failures else 0
