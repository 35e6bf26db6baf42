"""The build cache as a build sees it: look up a step, keep its result, one at a time.

A step that is not found is done under a lock on its key. So of two builds of the same step the
second waits, then finds the result of the first, or does the step itself if that failed or died. A
process holds one such lock at most, so nobody waits in a circle. Where the file system has no
locks both do it, and the first layer stays.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.store import build_cache
from rootless.image.store.build_cache import Entry
from rootless.image.store.records import find_layer
from rootless.image.store.store import Store
from rootless.image.transfer import prune_build_cache
from rootless.linux.locks import is_at, lock, open_lock, unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["Cache", "Entry", "trim"]


class Held:
    """The lock of a key.

    Attributes:
        waited: another had it meanwhile: then look again.
        is_passed_on: a child has it now, and releases it.
    """

    __slots__ = ("_path", "fd", "is_passed_on", "waited")

    def __init__(self, path: str, fd: int, waited: bool) -> None:
        self._path = path
        self.fd = fd
        self.waited = waited
        self.is_passed_on = False

    def release(self) -> None:
        """Give it back."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
            # Not only by closing: a child that was forked meanwhile would still hold it.
            unlock(self.fd)


class Cache:
    """The entries of one store, for builds with one map.

    It works on the host, and as root of a user namespace in which the owner of the store has an id.

    Args:
        root: of the store. map_key: of the map that layers are wanted for.
        carried: entries of caches that were brought along, by their keys.
        can_bring: tells whether layers that are not there for the map can be brought.
    """

    __slots__ = ("_can_bring", "_carried", "_layers", "_map", "_root")

    def __init__(
        self,
        root: str,
        map_key: str,
        carried: Mapping[str, Entry] | None = None,
        can_bring: Callable[[Sequence[str]], bool] = lambda missing: not missing,
    ) -> None:
        self._root = root
        self._map = map_key
        self._carried = carried or {}
        self._can_bring = can_bring
        self._layers: dict[str, dict[str, Any]] = {}

    def find(self, key: str, below: Sequence[str] = ()) -> Entry | None:
        """Return what a step has given, if its layers are there or can be brought; note the use.

        Args:
            below: chain ids of the tree before the step. A result on top of another tree is none:
                a step before was done anew, and has given something else.
        """
        for entry in (build_cache.read(self._root, key), self._carried.get(key)):
            if entry is not None and self._fits(entry, below):
                build_cache.touch(self._root, key)
                return entry
        return None

    def _fits(self, entry: Entry, below: Sequence[str]) -> bool:
        missing = [chain for chain in entry.chain if self.layer(chain) is None]
        return entry.chain[: len(below)] == tuple(below) and self._can_bring(missing)

    def has(self, key: str) -> bool:
        """Tell whether there is an entry, whatever has become of its layers."""
        return key in self._carried or build_cache.has(self._root, key)

    def layer(self, chain: str) -> dict[str, Any] | None:
        """Return the meta record of a layer; None: it is not there (yet).

        One that is there is looked at once: for as long as a build has the lock of the store, no
        layer goes.
        """
        meta = self._layers.get(chain)
        if meta is None:
            meta = find_layer(self._root, self._map, chain)
            if meta is not None:
                self._layers[chain] = meta
        return meta

    def find_layer(self, key: str) -> Entry | None:
        """Return the entry of a layer that does not depend on those below it (COPY --link).

        Its layer is the topmost one. It may be gone.
        """
        entry = build_cache.read(self._root, key) or self._carried.get(key)
        if entry is not None:
            build_cache.touch(self._root, key)
        return entry

    def store(
        self,
        key: str,
        chain: Sequence[str],
        *,
        diff_ids: Sequence[str] = (),
        sizes: Sequence[int] = (),
        created: float = 0.0,
        text: str = "",
        keys: Sequence[str] = (),
        early: str = "",
    ) -> None:
        """Keep the result of a step; its layers are in the store already.

        Args:
            chain: chain ids of all layers of the tree after the step, bottom first; [] for the
                empty tree, of which nothing is kept.
            diff_ids, sizes: of the layers that the build has added. text: the instruction.
            created: when, in seconds since 1970; 0: now.
            keys, early: all keys of the result, where it has several (`Entry`).

        Raises:
            RlessError: there is no room.
        """
        if chain:
            entry = Entry(
                chain,
                self._map,
                diff_ids=diff_ids,
                sizes=sizes,
                created=created or time.time(),
                text=text,
                keys=keys if early or len(keys) > 1 else (),
                early=early,
            )
            build_cache.write(self._root, key, entry)

    def keep_carried(self, keys: Iterable[str]) -> None:
        """Keep those entries of caches that were brought along whose layers are there by now."""
        for entry in dict.fromkeys(map(self._carried.get, keys)):
            if entry is None or None in map(self.layer, entry.chain):
                continue
            for key in filter(None, (*entry.keys, entry.early)):
                self.store(
                    key,
                    entry.chain,
                    diff_ids=entry.diff_ids[-1:],
                    created=entry.created,
                    text=entry.text,
                    keys=entry.keys,
                    early=entry.early,
                )

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], object] = lambda: None) -> Iterator[Held]:
        """Hold the lock of a key.

        Args:
            waiting: called once if it has to be waited for.

        Raises:
            RlessError: the store is read-only, or full.
        """
        path = build_cache.lock_path(self._root, key)
        held = Held(path, *self._take(path, waiting))
        try:
            yield held
        finally:
            if not held.is_passed_on:
                held.release()
            os.close(held.fd)

    def _take(self, path: str, waiting: Callable[[], object]) -> tuple[int, bool]:
        waited = False
        while True:
            try:
                build_cache.make_directory(self._root, os.path.dirname(path))
                fd = open_lock(path)
                os.fchown(fd, os.stat(self._root).st_uid, -1)
            except OSError as error:
                raise RlessError(
                    f"cannot write {path}: {error.strerror}", limits.hint(error.errno)
                ) from error
            if lock(fd, wait=False) is False:
                if not waited:
                    waiting()
                waited = True
                lock(fd)
            if is_at(fd, path):
                return fd, waited
            os.close(fd)  # the one before has removed it at its end


def trim(root: str) -> int:
    """Remove the least recently used entries beyond the ceiling; return the bytes of files gone.

    Where it runs: on the host, at the end of a build, without a lock of the store.
    """
    store = Store(root)
    _, freed = prune_build_cache.prune(store, every=True, keep=prune_build_cache.ceiling(store))
    return freed.bytes
