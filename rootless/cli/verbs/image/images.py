"""`rless images`: list images."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "images",
    "[OPTIONS] [REPOSITORY[:TAG]]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean",
                 "Accepted without effect: there are no intermediate images"),
                ("--digests", "", "flag", "digests", "boolean", "Show digests too"),
                ("--filter -f", "KEY=VALUE", "list", "filters", "text",
                 "Show only some: by before, containers, dangling, id, label, readonly, reference,"
                 " since, until"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Repository}}:{{.Tag}}'"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show full ids"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
            ),
        ),
    ),
    (("--tree", "", "not built yet", "each platform's image has a line of its own"),),
    most=1,
    failure=1,
)  # fmt: skip

_NAMES = (("Repository", "REPOSITORY"), ("Tag", "TAG"))
_DIGEST = (("Digest", "DIGEST"),)
_FACTS = (("ID", "IMAGE ID"), ("CreatedSince", "CREATED"), ("Size", "SIZE"))
_READ_ONLY = (("ReadOnly", "R/O"),)
_HEADINGS = {"CreatedAt": "CREATED AT", "Containers": "CONTAINERS", **dict(_DIGEST + _READ_ONLY)}


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the images, the newest first."""
    from rootless.engine.images import images

    given: dict[str, list[str]] = {}
    if values.get("filters"):
        from rootless.engine.query.filters import parse

        given = parse(values["filters"], images.LIST_FILTERS)
    if args:
        given["reference"] = [*given.get("reference", ()), args[0]]
    digests, full, template = (
        bool(values.get("digests")),
        bool(values.get("full")),
        values.get("format"),
    )
    found = images.list_images(given, digests=digests or template not in (None, "", "table"))
    read_only = any(item["read_only"] for item in found)
    known: dict[str, dict[str, object]] = {}
    output.show(
        [row(item, full, known) for item in found],
        _NAMES + (_DIGEST if digests else ()) + _FACTS + (_READ_ONLY if read_only else ()),
        template=template,
        ids="ID" if values.get("quiet") else None,
        headings=_HEADINGS,
    )
    return 0


def row(item: dict[str, Any], full: bool, known: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return an image of the engine under Docker's field names.

    Args:
        known: by id what images have in common under all their names; it is filled in.
    """
    shared = known.get(item["id"])
    if shared is None:
        shared = known[item["id"]] = {
            "Containers": "N/A",
            "CreatedAt": output.stamp(item["created"]),
            "CreatedSince": output.ago(item["created"]),
            "ID": output.short_id(item["id"], full),
            "SharedSize": "N/A",
            "Size": output.human_size(item["size"]),
            "UniqueSize": "N/A",
            "VirtualSize": output.human_size(item["size"]),  # Docker's old word for the same
        }
    return {
        **shared,
        "Digest": item["digest"] or "<none>",
        "ReadOnly": "true" if item["read_only"] else "false",
        "Repository": item["repository"] or "<none>",
        "Tag": item["tag"] or "<none>",
    }
