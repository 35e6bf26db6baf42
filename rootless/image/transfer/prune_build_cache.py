"""Remove entries of the build cache, and then the layers that only they have kept.

The directories of `RUN --mount=type=cache` are part of it. What was not used for the longest time
goes first. Of several steps of one build, the later ones go before those that they stand on: no
layer goes while another entry needs it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rootless.image.store import build_cache
from rootless.image.transfer.remove import Freed, collect_into, layer_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.image.store.build_cache import Entry
    from rootless.image.store.store import Store

_SHARE = 10  # the cache may take one part of so many of the file system,
_CEILING = 20 * 10**9  # and no more than this
_CONTENT_SECONDS = 90 * 86400  # after which digests of contexts are forgotten in any case
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
    store: Store,
    *,
    every: bool = False,
    before: float | None = None,
    keep: int = 0,
    mounts: Mapping[str, int] | None = None,
) -> tuple[list[str], Freed]:
    """Remove entries and what only they need; return their keys, and what went.

    Args:
        every: also entries whose result is part of an image.
        before: only what was last used before that moment, in seconds since 1970.
        keep: bytes that may stay; what was used last stays.
        mounts: name -> bytes of the directories of cache mounts, which may go too; those that a
            step has stay. Their names are among the keys.
    """
    build_cache.clear_leftovers(store.root)
    if before is not None:
        build_cache.forget_content(store.root, before)
    elif every and not keep:
        build_cache.forget_content(store.root, None)
    else:
        build_cache.forget_content(store.root, time.time() - _CONTENT_SECONDS)
    mounts = mounts or {}
    times = {name: used for name, used in build_cache.mounts(store.root).items() if name in mounts}
    found = measure(store)
    needed: dict[str, int] = {}
    for entry in found.entries.values():
        for chain in entry.chain:
            needed[chain] = needed.get(chain, 0) + 1
    left = found.size + sum(mounts[name] for name in times)
    freed = Freed()
    gone: list[str] = []
    items: list[tuple[str, Entry | float]] = [*found.entries.items(), *times.items()]
    for key, item in sorted(items, key=_order):
        if keep and left <= keep:
            break
        if before is not None and _used(item) >= before:
            continue
        if isinstance(item, float):
            if build_cache.remove_mount(store.root, key):
                gone.append(key)
                freed.bytes += mounts[key]
                left -= mounts[key]
        elif every or key not in found.shared:
            build_cache.forget(store.root, key)
            gone.append(key)
            for chain in item.chain:
                needed[chain] -= 1
                if not needed[chain]:
                    left -= found.of_layers.get(chain, 0)
    unneeded = {chain for chain, count in needed.items() if not count}
    if unneeded:
        collect_into(freed, store, unneeded)
    return gone, freed


def _used(item: Entry | float) -> float:
    return item if isinstance(item, float) else item.used


def _order(named: tuple[str, Entry | float]) -> tuple[int, int, str]:
    key, item = named
    above = 0 if isinstance(item, float) else -len(item.chain)
    return int(_used(item)) // _TOGETHER, above, key
