"""Access files of every subordinate id: a map of all of them, and deletion under it."""

from __future__ import annotations

import os

from rootless.errors import RlessError
from rootless.linux import programs, subid
from rootless.linux.idmap import IdMap, call_in_userns
from rootless.linux.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import Extent


def everything() -> IdMap:
    """Return a map that reaches all ids of the caller: root is the caller, then the ranges."""
    uids = _extents(os.getuid(), subid.ranges("uid"))
    gids = _extents(os.getgid(), subid.ranges("gid"))
    if len(uids) == 1 or len(gids) == 1 or programs.find_privileged("newuidmap") is None:
        return IdMap(uids[:1], gids[:1], "single")
    return IdMap(uids, gids, "u0g0")


def own_ids(idmap: IdMap) -> tuple[int, int]:
    """Return what the caller's own uid and gid are inside a map; call it outside."""
    return _inside(os.getuid(), idmap.uids), _inside(os.getgid(), idmap.gids)


def _inside(host: int, extents: Sequence[Extent]) -> int:
    for first, start, count in extents:
        if start <= host < start + count:
            return first + host - start
    raise RlessError(f"your id {host} is not in the user map")


def _extents(own: int, ranges: Sequence[tuple[int, int]]) -> list[Extent]:
    extents = [(0, own, 1)]
    first = 1
    for start, count in ranges:
        extents.append((first, start, count))
        first += count
    return extents


def delete_any(directory: str, name: str) -> None:
    """Delete a tree that may have files of subordinate ids; absent is no error.

    Raises:
        RlessError: even as root of a user namespace it cannot be deleted.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            remove_tree(fd, name)
        except RlessError:
            # Directories of other ids: only root of a namespace that maps them may.
            call_in_userns(everything(), remove_tree, fd, name)
    finally:
        os.close(fd)
