"""`rless history`: show the steps that an image was made by."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "history",
    "[OPTIONS] IMAGE",
    (
        (
            "Options",
            (
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Size}} {{.CreatedBy}}'"),
                ("--human -H", "", "flag", "human", "boolean",
                 "Show sizes and times in human-readable form (true unless turned off)"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show full ids and commands"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Show the image that was pulled for this platform"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
            ),
        ),
    ),
    least=1,
    most=1,
    failure=1,
)  # fmt: skip

_WIDTH = 45
_END = (("Size", "SIZE"), ("Comment", "COMMENT"))


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the steps, the last one first."""
    from rootless.engine.images.images import history

    human, full = bool(values.get("human", True)), bool(values.get("full"))
    when = ("CreatedSince", "CREATED") if human else ("CreatedAt", "CREATED AT")
    output.show(
        [row(item, human, full) for item in history(args[0], values.get("platform"))],
        (("ID", "IMAGE"), when, ("CreatedBy", "CREATED BY"), *_END),
        template=values.get("format"),
        ids="ID" if values.get("quiet") else None,
        headings={"CreatedAt": "CREATED AT", "CreatedSince": "CREATED"},
    )
    return 0


def row(item: dict[str, Any], human: bool, full: bool) -> dict[str, object]:
    """Return a step of the engine under Docker's field names."""
    from rootless.engine import timestamps

    command = item["created_by"].replace("\t", " ")
    return {
        "Comment": item["comment"],
        "CreatedAt": timestamps.show(int(item["created"])) if item["created"] else "N/A",
        "CreatedBy": command if full else output.shorten(command, _WIDTH),
        "CreatedSince": output.ago(item["created"]),
        "ID": output.short_id(item["id"], full) or "<missing>",
        "Size": output.human_size(item["size"]) if human else str(item["size"]),
    }
