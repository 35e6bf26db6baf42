"""`rless volume prune`: remove the volumes that no container has."""

from __future__ import annotations

from rootless.cli import output, streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "volume prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean", "Also remove named volumes"),
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by label, label!, all=true"),
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

    given = filters.parse(values.get("filters", ()), ("label", "label!", "all"))
    every = bool(values.get("all")) or "true" in given.get("all", ())
    which = "all" if every else "anonymous"
    warning = f"WARNING! This will remove {which} local volumes not used by at least one container."
    if not values.get("force") and not confirmed(warning):
        return 0  # as Docker and Podman
    gone = prune.volumes(given, every)
    streams.write(listed("Deleted Volumes:", gone.names) + reclaimed(gone.size))
    return 0


def listed(heading: str, names: list[str]) -> str:
    """Return a heading with names below it, one a line, and an empty line; "" for no names."""
    return "\n".join([heading, *names, "", ""]) if names else ""


def reclaimed(size: int) -> str:
    """Return Docker's last line."""
    return f"Total reclaimed space: {output.human_size(size)}\n"
