"""`rless network prune`: remove networks that no container uses."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by label, label!, until"),
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Ask, remove, and print what went."""
    from rootless.cli.confirm import confirmed
    from rootless.cli.verbs.volume.prune import listed
    from rootless.engine.manage import prune
    from rootless.engine.query import filters

    given = filters.parse(values.get("filters", ()), ("label", "label!", "until"))
    warning = "WARNING! This will remove all custom networks not used by at least one container."
    if not values.get("force") and not confirmed(warning):
        return 0
    streams.write(listed("Deleted Networks:", prune.networks(given)))
    return 0
