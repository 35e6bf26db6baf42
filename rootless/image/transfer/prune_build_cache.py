"""Remove entries of the build cache, and then the layers that only they have kept.

The entries that were not used for the longest time go first. Of several of one build, the later
steps go before those that they stand on: no layer goes while another entry needs it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless.image.store import build_cache
from rootless.image.transfer.remove import Freed, collect_into, layer_sizes

if TYPE_CHECKING:
    from rootless.image.store.build_cache import Entry
    from rootless.image.store.store import Store

_SHARE = 10  # the cache may take one part of so many of the file system,
_CEILING = 20 * 10**9  # and no more than this
_TOGETHER = 60  # seconds: steps of one build are used one after the other


class Usage:
    """What the build cache takes.

    Attributes:
        entries: key -> entry. shared: keys of those whose result an image has, too.
        size: bytes of files in the layers that no image has.
        of_layers: chain id -> bytes, of these layers.
    """

    __slots__ = ("entries", "of_layers", "shared", "size")

    def __init__(
        self, entries: dict[str, Entry], shared: set[str], of_layers: dict[str, int]
    ) -> None:
        self.entries = entries
        self.shared = shared
        self.of_layers = of_layers
        self.size = sum(of_layers.values())


def measure(store: Store) -> Usage:
    """Return what the build cache of a store has, and takes."""
    entries = build_cache.every(store.root)
    records = store.records("names") + store.records("ids")
    of_images = {chain for record in records for chain in record["chain"]}
    shared = {key for key, entry in entries.items() if entry.chain[-1] in of_images}
    only = {chain for entry in entries.values() for chain in entry.chain} - of_images
    return Usage(entries, shared, layer_sizes(store.root, only))


def ceiling(store: Store) -> int:
    """Return how many bytes the cache may keep by itself: a tenth of the file system, or 20 GB."""
    room = os.statvfs(store.root)
    return min(room.f_blocks * room.f_frsize // _SHARE, _CEILING)


def prune(
    store: Store, *, every: bool = False, before: float | None = None, keep: int = 0
) -> tuple[list[str], Freed]:
    """Remove entries and what only they need; return their keys, and what went.

    Args:
        every: also entries whose result is part of an image.
        before: only entries last used before that moment, in seconds since 1970.
        keep: bytes of layers that may stay; what was used last stays.
    """
    build_cache.clear_leftovers(store.root)
    found = measure(store)
    needed: dict[str, int] = {}
    for entry in found.entries.values():
        for chain in entry.chain:
            needed[chain] = needed.get(chain, 0) + 1
    left = found.size
    gone = []
    for key, entry in sorted(found.entries.items(), key=_order):
        if keep and left <= keep:
            break
        if (key in found.shared and not every) or (before is not None and entry.used >= before):
            continue
        build_cache.forget(store.root, key)
        gone.append(key)
        for chain in entry.chain:
            needed[chain] -= 1
            if not needed[chain]:
                left -= found.of_layers.get(chain, 0)
    freed = Freed()
    unneeded = {chain for key in gone for chain in found.entries[key].chain if not needed[chain]}
    if unneeded:
        collect_into(freed, store, unneeded)
    return gone, freed


def _order(item: tuple[str, Entry]) -> tuple[int, int, str]:
    key, entry = item
    return int(entry.used) // _TOGETHER, -len(entry.chain), key
