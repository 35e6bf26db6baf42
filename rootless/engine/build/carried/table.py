"""The table of a carried cache: key of a step -> the layers that it has come to. Pure.

    {"rootfs": {"type": "layers", "diff_ids": [...]},       of the layers of the manifest
     "rless.build-cache.v1": {
       "below": [...],                                      diff_ids of layers that are not carried
       "entries": [{"keys", "early", "layers", "created", "text", "single"}]}}

A result has several keys, if it can be found in several ways. `layers` are places in the list of `diff_ids` and then `below`, the lowest first. A table is read
from anybody: what is malformed is refused, and no size is believed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rootless.image.config.manifest import ManifestError
from rootless.image.model import limits
from rootless.image.model.digest import chain_ids, is_digest, is_hex
from rootless.image.store.build_cache import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELD = "rless.build-cache.v1"
MEDIA_TYPE = "application/vnd.rless.build-cache.v1+json"
SINGLE = "single"  # key of the map of one id
_ENTRIES = 20_000
_KEYS = 8  # of one result
_TEXT = 200


def make(
    entries: Mapping[str, Entry],
    diff_ids: Mapping[str, str],
    carried: Sequence[str],
    created: float | None = None,
    *,
    early: bool = True,
) -> dict[str, Any]:
    """Return the table of some entries.

    Args:
        diff_ids: of the layers of all entries, by their chain ids.
        carried: diff_ids of the layers that go with the table.
        created: of all entries; None: as they have it.
        early: with the keys by which a result is found before its sources are there. They depend on
            stages that are not part of the image.
    """
    places = {diff_id: place for place, diff_id in enumerate(carried)}
    rows = []
    for keys, entry in {entry.keys or (key,): entry for key, entry in entries.items()}.items():
        layers = [
            places.setdefault(diff_id, len(places))
            for diff_id in (diff_ids[chain] for chain in entry.chain)
        ]
        time = entry.created if created is None else created
        row: dict[str, Any] = {"keys": keys, "layers": layers, "created": time}
        if entry.text:
            row["text"] = entry.text[:_TEXT]
        if entry.early and early:
            row["early"] = entry.early
        if entry.map == SINGLE:
            row["single"] = True
        rows.append(row)
    return {"below": list(places)[len(carried) :], "entries": rows}


def read(config: Mapping[str, Any], what: str) -> dict[str, Entry]:
    """Return the entries of a config document that `parse_config` has checked.

    The diff_ids of an entry are those of all its layers; its map is `SINGLE` or "".

    Raises:
        ManifestError: it has no table, or one that is malformed.
    """
    table = config.get(FIELD)
    if table is None:
        raise ManifestError(f"{what} has no build cache of rless")
    bad = ManifestError(f"{what}: its table of steps is malformed")
    if not isinstance(table, dict):
        raise bad
    below, rows = table.get("below"), table.get("entries")
    if not isinstance(below, list) or not isinstance(rows, list) or not all(map(is_digest, below)):
        raise bad
    if len(rows) > _ENTRIES:
        raise ManifestError(f"{what}: it has {len(rows)} steps; the limit is {_ENTRIES}")
    known = [*config["rootfs"]["diff_ids"], *below]
    found: dict[str, Entry] = {}
    for row in rows:
        entry = _entry(row, known)
        if entry is None:
            raise bad
        for key in (*entry.keys, *([entry.early] if entry.early else ())):
            found.setdefault(key, entry)
    return found


def _entry(row: object, known: Sequence[str]) -> Entry | None:
    """Return the entry of a row; None: it is malformed."""
    if not isinstance(row, dict):
        return None
    keys, layers, created = row.get("keys"), row.get("layers"), row.get("created")
    text, early = row.get("text", ""), row.get("early")
    if not isinstance(keys, list) or not 0 < len(keys) <= _KEYS or not isinstance(text, str):
        return None
    if not all(isinstance(key, str) and is_hex(key, 64) for key in (*keys, early or keys[0])):
        return None
    if not isinstance(created, int | float) or not math.isfinite(created):
        return None
    if not 0 <= created < 1 << 36:  # year 4147
        return None
    if not isinstance(layers, list) or not 0 < len(layers) <= limits.LAYERS:
        return None
    if not all(type(place) is int and 0 <= place < len(known) for place in layers):
        return None
    diff_ids = [known[place] for place in layers]
    return Entry(
        chain_ids(diff_ids),
        SINGLE if row.get("single") else "",
        diff_ids=diff_ids,
        created=float(created),
        text=text[:_TEXT],
        keys=keys,
        early=early or "",
    )
