"""`rless image prune`: remove images that nothing needs."""

from __future__ import annotations

import sys

from rootless.cli import output, streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "image prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean",
                 "Remove all images that no container uses, not only those without a name"),
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by label, until"),
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
            ),
        ),
    ),
    most=0,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove images; print which, and how many bytes are free again."""
    from rootless.engine.images import images

    given: dict[str, list[str]] = {}
    if values.get("filters"):
        from rootless.engine.query.filters import parse

        given = parse(values["filters"], images.PRUNE_FILTERS)
    everything = bool(values.get("all"))
    if not values.get("force") and not _is_agreed(everything):
        return 0
    lines, freed = images.prune(given, everything)
    if lines:
        listed = "".join(f"{line[0].lower()}{line[1:]}\n" for line in lines)
        streams.write(f"Deleted Images:\n{listed}\n")
    streams.write(f"Total reclaimed space: {output.human_size(freed)}\n")
    return 0


def _is_agreed(everything: bool) -> bool:
    what = "without at least one container associated to them" if everything else ""
    which = f"all images {what}" if everything else "all dangling images"
    streams.write(f"WARNING! This will remove {which}.\nAre you sure you want to continue? [y/N] ")
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        streams.write("\n")
    return answer.strip().lower() in ("y", "yes")
