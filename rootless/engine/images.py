"""Images for the command line: pull, list, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless import paths
from rootless.engine import listing, userns
from rootless.engine.container import load
from rootless.image import pull as puller
from rootless.image import remove as remover
from rootless.image.reference import familiar_repository
from rootless.image.store import Store
from rootless.image.user import resolve_user

if TYPE_CHECKING:
    from rootless.image.store import Image
    from rootless.linux.idmap import IdMap


def pull(name: str, platform: str | None = None, quiet: bool = False) -> Image:
    """Fetch an image, as its name means now, unpacked for the map that a plain `run` takes."""
    subordinate = userns.Subordinate()

    def idmap_for(image: Image) -> IdMap:
        spec = image.config.get("User") or ""
        user = resolve_user(spec, passwd=image.passwd(), group=image.group())
        return userns.choose("auto", user[:2], subordinate)

    store = Store(paths.storage_root())
    return puller.pull(
        name, store, platform=platform, policy="always", quiet=quiet, idmap_for=idmap_for
    )


def list_images() -> list[dict[str, Any]]:
    """Return one entry a name, and one for each image without a name.

    Each has repository and tag ("" if there is none), id, digest, created (seconds since 1970,
    0.0 if unknown) and size (bytes of the unpacked files).
    """
    store = Store(paths.storage_root())
    named = store.records("names")
    with_name = {record["id"] for record in named}
    nameless = [record for record in store.records("ids") if record["id"] not in with_name]
    found = []
    for record in named + nameless:
        repository, tag = _split(record["name"]) if record["id"] in with_name else ("", "")
        found.append(
            {
                "repository": repository,
                "tag": tag,
                "id": record["id"],
                "digest": record["digests"][0] if record["digests"] else "",
                "created": _seconds(record["created"]),
                "size": record["size"],
            }
        )
    return found


def _split(name: str) -> tuple[str, str]:
    """Return repository and tag as Docker shows them; a digest or a path has no tag."""
    familiar = familiar_repository(name)
    if "@" in familiar:
        return familiar.partition("@")[0], ""
    head, colon, tag = familiar.rpartition(":")
    if not colon or "/" in tag:
        return familiar, ""
    return head, tag


def _seconds(created: str) -> float:
    """Return an RFC 3339 time in seconds; 0.0 for what cannot be read or is Go's zero time."""
    from datetime import datetime, timezone

    whole, dot, rest = created.replace("Z", "+00:00").partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    try:
        moment = datetime.fromisoformat(whole + zone)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp())


def remove(name: str, force: bool = False) -> list[str]:
    """Remove an image's name, and the image with its last one.

    Returns:
        Lines as Docker prints them: "Untagged: …", "Deleted: …".

    Raises:
        RlessError: no such image, or a container needs it.
    """
    used = [entry["image_id"] for entry in _container_facts() if entry.get("image_id")]
    return remover.remove(Store(paths.storage_root()), name, force=force, used=used)


def _container_facts() -> list[dict[str, Any]]:
    found = []
    for entry in listing.list_containers(ended_too=True):
        loaded = load(entry["id"])
        if loaded is not None:
            found.append(loaded.facts)
    return found
