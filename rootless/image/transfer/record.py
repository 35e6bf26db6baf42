"""Record an image that was made here: by a build, or of a container.

Its layers are there by now. The record is written last, and a name moves to the image with it, so
an image that can be found is complete.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError
from rootless.image.config.manifest import parse_config
from rootless.image.layer.layers import merge_users, whiteouts_of
from rootless.image.model.digest import sha256
from rootless.image.store import records
from rootless.image.store.store import record_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Store


def record(
    store: Store,
    key: str,
    made: Mapping[str, Any],
    metas: Sequence[dict[str, Any]],
    names: Sequence[Reference],
    scratch: str,
    platform: str | None = None,
) -> str:
    """Record the image; return its id.

    Args:
        key: of the map that its layers are there for.
        made: the config document.
        names: all that it gets; none: it has an id only.
        platform: the names are meant for that platform only.
        scratch: the directory of a `Staging`.

    Raises:
        RlessError: no room.
    """
    root = store.root
    text = json.dumps(made, separators=(",", ":")).encode("ascii")
    chain = [meta["chain"] for meta in metas]
    parsed = parse_config(text, "the new image's config", len(chain))
    identifier = sha256(text)
    entry: dict[str, Any] = {
        "name": record_name(names[0]) if names else identifier,
        "id": identifier,
        "digest": "",
        "digests": [],
        "config": parsed["config"],
        "platform": {field: made.get(field) or "" for field in ("os", "architecture", "variant")},
        "chain": chain,
        "users": merge_users(list(metas)),
        "keys": {key: whiteouts_of(metas)},
        "size": sum(meta["size"] for meta in metas),
        "created": made["created"],
        "source": None,
    }
    _keep_maps(store, entry)
    records.put_blob(root, identifier, text, scratch)
    records.sync(root)
    for name in names:
        records.save(root, {**entry, "name": record_name(name)}, name, platform, scratch)
    if not names:
        records.save_nameless(root, entry, scratch)
    return identifier


def _keep_maps(store: Store, entry: dict[str, Any]) -> None:
    """Keep what is known of other maps, where the same image is there already."""
    old = store.read(f"{store.root}/images/ids/{entry['id'][7:]}.json")
    if old is not None:
        entry["keys"] = {**old["keys"], **entry["keys"]}


def read_metas(root: str, key: str, chain: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of layers that were just made or found.

    Raises:
        RlessError: one was removed meanwhile.
    """
    metas = [records.read_meta(root, key, link) for link in chain]
    if None in metas:
        raise RlessError("a layer was removed in the meantime", "run the command again", 1)
    return [meta for meta in metas if meta is not None]
