"""What images there are, and all about one."""

from __future__ import annotations

from typing import Any

from rootless.engine.images import images
from rootless.service import inputs
from rootless.service.http import Request, Response

_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")


async def list_all(request: Request) -> Response:
    """List images: one entry for each, with all of its names."""
    given = inputs.filters(request, _FILTERS)
    found: dict[str, dict[str, Any]] = {}
    for row in images.list_images(given, digests=True):
        entry = found.setdefault(row["id"], _summary(row))
        if not row["name"]:
            continue
        if row["tag"]:
            entry["RepoTags"].append(f"{row['repository']}:{row['tag']}")
        if row["digest"]:
            entry["RepoDigests"].append(f"{row['repository']}@{row['digest']}")
    if request.version < (1, 44):
        for entry in found.values():
            entry["VirtualSize"] = entry["Size"]
    return Response(list(found.values()))


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "Id": row["id"],
        "ParentId": "",
        "RepoTags": [],
        "RepoDigests": [],
        "Created": int(row["created"]),
        "Size": row["size"],
        "SharedSize": -1,
        "Labels": row["labels"] or None,
        "Containers": -1,
    }


async def inspect(request: Request) -> Response:
    """Show all about an image."""
    found = images.inspect_image(request.names["name"])
    del found["ReadOnly"]
    if request.version >= (1, 44):
        del found["VirtualSize"]
    return Response(found)


async def history(request: Request) -> Response:
    """Show the steps that an image was made by."""
    name = request.names["name"]
    tags = images.inspect_image(name)["RepoTags"]
    rows = images.history(name)
    return Response(
        [
            {
                "Id": row["id"] or "<missing>",
                "Created": int(row["created"]),
                "CreatedBy": row["created_by"],
                "Tags": (tags or None) if index == 0 else None,
                "Size": row["size"],
                "Comment": row["comment"],
            }
            for index, row in enumerate(rows)
        ]
    )
