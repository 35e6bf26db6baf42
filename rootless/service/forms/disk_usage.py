"""What the storage takes on disk, as `docker system df` shows it; in a child process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.engine import timestamps
from rootless.service.forms import containers, images

if TYPE_CHECKING:
    from collections.abc import Collection

    from rootless.engine.query.disk_usage import Usage

KINDS = ("container", "image", "volume", "build-cache")


def measured(kinds: Collection[str], version: tuple[int, int]) -> dict[str, Any]:
    """Measure the storage, and return what is asked for of it.

    Args:
        kinds: some of KINDS. version: of the API, that the client speaks.

    Raises:
        RlessError: a part of the storage cannot be read.
    """
    from rootless.engine.query.disk_usage import measure

    usage = measure()
    found: dict[str, Any] = {
        "LayersSize": usage.shares["Images"].size if "image" in kinds else 0,
        "Images": _images(usage, version) if "image" in kinds else None,
        "Containers": _containers(usage) if "container" in kinds else None,
        "Volumes": _volumes(usage) if "volume" in kinds else None,
        "BuildCache": _build_cache(usage) if "build-cache" in kinds else None,
    }
    if version < (1, 42):
        found["BuilderSize"] = usage.shares["Build Cache"].size
    return found


def _images(usage: Usage, version: tuple[int, int]) -> list[dict[str, Any]]:
    sizes = {image["id"]: image for image in usage.images}
    found = []
    for entry in images.summaries({}, version):
        if own := sizes.get(entry["Id"]):
            entry |= {
                "Size": own["size"], "SharedSize": own["shared"], "Containers": own["containers"]
            }  # fmt: skip
            found.append(entry)
    return found


def _containers(usage: Usage) -> list[dict[str, Any]]:
    sizes = {row["image_id"]: 0 for row in usage.containers}
    sizes |= {image["id"]: image["size"] for image in usage.images}
    return [
        containers.summary(row)
        | {"SizeRw": row["size"], "SizeRootFs": row["size"] + sizes[row["image_id"]]}
        for row in usage.containers
    ]


def _volumes(usage: Usage) -> list[dict[str, Any]]:
    from rootless.engine.state import volumes

    return [
        volumes.inspect_volume(one["name"])
        | {"UsageData": {"Size": one["size"], "RefCount": one["links"]}}
        for one in usage.volumes
    ]


def _build_cache(usage: Usage) -> list[dict[str, Any]]:
    return [
        {
            "ID": one["id"][:25],
            "Type": one["type"],
            "Description": one["text"],
            "InUse": False,
            "Shared": one["shared"],
            "Size": one["size"],
            "CreatedAt": timestamps.show(one["created"]),
            "LastUsedAt": timestamps.show(one["used"]) if one["used"] else None,
            "UsageCount": 1,
        }
        for one in usage.build_cache
    ]
