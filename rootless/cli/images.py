"""`rless images`: list images."""

from __future__ import annotations

from typing import Any

from rootless.cli import output
from rootless.cli.parse import Verb

VERB = Verb(
    "images",
    "[OPTIONS] [REPOSITORY[:TAG]]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean",
                 "Accepted: there are no intermediate images to hide"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show whole ids"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Repository}}:{{.Tag}}'"),
            ),
        ),
    ),
    (
        ("--filter -f", "FILTER", "not built yet", "filter the output of --format json"),
        ("--digests", "", "not built yet", ""),
        ("--tree", "", "not built yet", ""),
    ),
    most=1,
)  # fmt: skip

COLUMNS = (
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the images, the newest first."""
    from rootless.engine.images import list_images

    found = sorted(list_images(), key=lambda item: -float(item["created"] or 0))
    if args:
        repository, tag = split(args[0])
        found = [
            item
            for item in found
            if item["repository"] == repository and tag in (None, item["tag"])
        ]
    full = bool(values.get("full"))
    rows: list[dict[str, object]] = [
        {
            "Repository": item["repository"] or "<none>",
            "Tag": item["tag"] or "<none>",
            "ID": output.short_id(item["id"], full),
            "CreatedSince": output.ago(item["created"] or 0),
            "CreatedAt": output.stamp(item["created"] or 0),
            "Size": output.human_size(item["size"]),
        }
        for item in found
    ]
    output.show(
        rows,
        COLUMNS,
        template=values.get("format"),
        ids="ID" if values.get("quiet") else None,
    )
    return 0


def split(name: str) -> tuple[str, str | None]:
    """Return the repository and the tag of `REPOSITORY[:TAG]`; a port is not a tag."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)
