"""`rless builder prune`: remove the build cache."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags import values as kinds
from rootless.cli.parse import Verb
from rootless.cli.verbs.volume.prune import listed, reclaimed
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "builder prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean",
                 "Also remove what images are made of, not only what no image has"),
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by until, the last use"),
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
                ("--keep-storage", "SIZE", "value", "keep_storage", "text",
                 "Keep that much of what was used last"),
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

    given = filters.parse(values.get("filters", ()), ("until",))
    prune.until(given)
    every = bool(values.get("all"))
    text = values.get("keep_storage") or "0"
    try:
        keep = kinds.size(text)
    except ValueError as error:
        raise RlessError(f"--keep-storage: {text!r} {error}") from None
    which = "all build cache" if every else "all dangling build cache"
    if not values.get("force") and not confirmed(f"WARNING! This will remove {which}."):
        return 0  # as Docker
    gone = prune.build_cache(given, every, keep)
    streams.write(listed("Deleted build cache objects:", gone.names) + reclaimed(gone.size))
    return 0
