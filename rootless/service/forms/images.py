"""Images as the API lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.engine.images import images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def summaries(given: Mapping[str, Sequence[str]], version: tuple[int, int]) -> list[dict[str, Any]]:
    """Return one entry for each image, with all of its names.

    Args:
        given: filters. version: of the API, that the client speaks.

    Raises:
        RlessError: a filter has a value that it cannot have.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in images.list_images(given, digests=True):
        entry = found.setdefault(row["id"], _summary(row))
        if not row["name"]:
            continue
        if row["tag"]:
            entry["RepoTags"].append(f"{row['repository']}:{row['tag']}")
        if row["digest"]:
            entry["RepoDigests"].append(f"{row['repository']}@{row['digest']}")
    if version < (1, 44):
        for entry in found.values():
            entry["VirtualSize"] = entry["Size"]
    return list(found.values())


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
