"""`rless system prune`: remove all that nothing uses."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.cli.verbs.volume.prune import listed, reclaimed
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "system prune",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean",
                 "Remove all images that no container uses, not only those without a name"),
                ("--filter", "KEY=VALUE", "list", "filters", "text",
                 "Remove only some: by until, label, label!"),
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
                ("--volumes", "", "flag", "volumes", "boolean",
                 "Also remove anonymous volumes; with --all named ones too"),
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
    every, volumes = bool(values.get("all")), bool(values.get("volumes"))
    if volumes and "until" in given:
        raise RlessError("--filter until is not supported with --volumes", exit_code=1)
    if not values.get("force") and not confirmed(_warning(every, volumes, values)):
        return 0  # as Docker and Podman
    gone = prune.system(given, every, volumes)
    failures = [*gone.containers.failures, *gone.volumes.failures]
    for error in failures:
        streams.report(error)
    streams.write(
        listed("Deleted Containers:", gone.containers.names)
        + listed("Deleted Networks:", gone.networks)
        + listed("Deleted Volumes:", gone.volumes.names)
        + listed("Deleted Images:", [f"{line[0].lower()}{line[1:]}" for line in gone.images])
        + listed("Deleted build cache objects:", gone.build_cache)
        + reclaimed(gone.size)
    )
    return 1 if failures else 0


def _warning(every: bool, volumes: bool, values: dict[str, Any]) -> str:
    lines = ["WARNING! This will remove:", "  - all stopped containers"]
    lines.append("  - all networks not used by at least one container")
    if volumes:
        which = "all" if every else "all anonymous"
        lines.append(f"  - {which} volumes not used by at least one container")
    if every:
        lines.append("  - all images without at least one container associated to them")
        lines.append("  - all build cache")
        lines.append("  - all other caches")
    else:
        lines.append("  - all dangling images")
        lines.append("  - unused build cache")
    lines.append("  - all leftovers of commands that were killed")
    if values.get("filters"):
        lines += ["", "  Items to be pruned will be filtered with:"]
        lines += [f"  - {text}" for text in sorted(values["filters"])]
    return "\n".join([*lines, ""])
