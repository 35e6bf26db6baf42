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
from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.store import build_cache
from rootless.image.store.build_cache import Entry
from rootless.image.store.records import has_layer
from rootless.image.store.store import Store
from rootless.image.transfer import prune_build_cache
from rootless.linux.locks import is_at, lock, open_lock, unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Cache", "Entry", "trim"]


class Cache:
    """The entries of one store, for builds with one map.

    It works on the host, and as root of a user namespace in which the owner of the store has an id.

    Args:
        root: of the store. map_key: of the map that layers are wanted for.
    """

    __slots__ = ("_map", "_root")

    def __init__(self, root: str, map_key: str) -> None:
        self._root = root
        self._map = map_key

    def find(self, key: str) -> Entry | None:
        """Return what a step has given, if all its layers are there for the map; note the use."""
        entry = build_cache.read(self._root, key)
        if entry is None or not all(
            has_layer(self._root, self._map, chain) for chain in entry.chain
        ):
            return None
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
    ) -> None:
        """Keep the result of a step; its layers are in the store already.

        Args:
            chain: chain ids of all layers of the tree after the step, bottom first; [] for the
                empty tree, of which nothing is kept.
            diff_ids, sizes: of the layers that the build has added. text: the instruction.
            created: when, in seconds since 1970; 0: now.

        Raises:
            RlessError: there is no room.
        """
        if chain:
            entry = Entry(
                chain, self._map, diff_ids=diff_ids, sizes=sizes, created=created or time.time(), text=text
            )
            build_cache.write(self._root, key, entry)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], object] = lambda: None) -> Iterator[bool]:
        """Hold the lock of a key; yield whether another had it meanwhile: then look again.

        Args:
            waiting: called once if it has to be waited for.

        Raises:
            RlessError: the store is read-only, or full.
        """
        path = build_cache.lock_path(self._root, key)
        fd, waited = self._take(path, waiting)
        try:
            yield waited
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
                # Not only by closing: a child that was forked meanwhile would still hold it.
                unlock(fd)
            os.close(fd)

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
