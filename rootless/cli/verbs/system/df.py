"""`rless system df`: show what images, containers and volumes take on disk."""

from __future__ import annotations

from rootless.cli import output, streams
from rootless.cli.parse import Verb
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.query.disk_usage import Share, Usage

VERB = Verb(
    "system df",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Type}} {{.Size}}'"),
                ("--verbose -v", "", "flag", "verbose", "boolean",
                 "Show each image, container, volume and step of a build"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip

COLUMNS = (
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
)
_IMAGES = (
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
)
_CONTAINERS = (
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
)
_BUILD_CACHE = (
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("Shared", "SHARED"),
    ("Description", "STEP"),
)
_VOLUMES = (("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE"))


def main(values: dict[str, Any], args: list[str]) -> int:
    """Measure and print."""
    from rootless.engine.query.disk_usage import measure

    template = values.get("format")
    usage = measure()
    if values.get("verbose"):
        details = _details(usage)
        if template in (None, "", "table"):
            _show_tables(usage, details)
        else:
            output.show([details], (), template=template)
        return 0
    rows = [_row(kind, share) for kind, share in usage.shares.items()]
    output.show(rows, COLUMNS, template=template)
    return 0


def _row(kind: str, share: Share) -> dict[str, object]:
    percent = f" ({100 * share.reclaimable // share.size}%)" if share.size else ""
    return {
        "Active": str(share.active),
        "Reclaimable": output.human_size(share.reclaimable) + percent,
        "Size": output.human_size(share.size),
        "TotalCount": str(share.total),
        "Type": kind,
    }


def _details(usage: Usage) -> dict[str, list[dict[str, object]]]:
    """Return what is shown one by one under Docker's names of the lists and fields."""
    from rootless.cli.verbs.container import ps
    from rootless.engine.images.images import list_images

    sizes = {image["id"]: image for image in usage.images}
    images: list[dict[str, object]] = []
    for item in sorted(list_images(), key=lambda item: -float(item["created"] or 0)):
        image = sizes.get(item["id"])
        if image is None:
            continue
        images.append(
            {
                "Repository": item["repository"] or "<none>",
                "Tag": item["tag"] or "<none>",
                "ID": output.short_id(item["id"]),
                "CreatedSince": output.ago(item["created"] or 0),
                "Size": output.human_size(image["size"]),
                "SharedSize": output.human_size(image["shared"]),
                "UniqueSize": output.human_size(image["size"] - image["shared"]),
                "Containers": str(image["containers"]),
            }
        )
    containers = [
        {**_plain(ps.row(item, False)), "Size": output.human_size(item["size"])}
        for item in usage.containers
    ]
    volumes: list[dict[str, object]] = [
        {
            "Name": volume["name"],
            "Links": str(volume["links"]),
            "Size": output.human_size(volume["size"]),
        }
        for volume in usage.volumes
    ]
    build_cache: list[dict[str, object]] = [
        {
            "ID": entry["id"][:12],
            "CacheType": entry["type"],
            "Size": output.human_size(entry["size"]),
            "CreatedSince": output.ago(entry["created"]) if entry["created"] else "",
            "LastUsedSince": output.ago(entry["used"]),
            "Shared": str(entry["shared"]).lower(),
            "Description": escape(entry["text"])[:60],
        }
        for entry in sorted(usage.build_cache, key=lambda entry: -float(entry["used"]))
    ]
    return {
        "Images": images,
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": build_cache,
    }


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not callable(value)}


def _show_tables(usage: Usage, details: dict[str, list[dict[str, object]]]) -> None:
    for name, heading, columns in (
        ("Images", "Images", _IMAGES),
        ("Containers", "Containers", _CONTAINERS),
        ("Volumes", "Local Volumes", _VOLUMES),
        ("BuildCache", "Build cache", _BUILD_CACHE),
    ):
        streams.write(f"{heading} space usage:\n\n")
        output.show(details[name], columns)
        streams.write("\n")
    for kind in ("Caches", "In Flight"):
        streams.write(f"{kind} usage: {output.human_size(usage.shares[kind].size)}\n")
