"""A cache of directories that many processes use; each entry is made once, and complete.

A process that uses an entry holds a shared lock on it. A process that makes one holds the lock of
the cache, and removes entries that are no longer used.
"""

from __future__ import annotations

import os

from rootless.linux import tree
from rootless.linux.locks import lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def make_entry(
    cache: str, name: str, build: Callable[[str], None], clear: Callable[[int], None]
) -> None:
    """Make the entry `name`, one process at a time; who waited for the lock finds it done.

    Args:
        cache: made if absent.
        build: fills the directory that it is given.
        clear: takes away what nobody uses, in the directory behind a descriptor.

    Raises:
        OSError: ENOSPC...; and what `build` raises. Nothing of the entry is left then.
    """
    os.makedirs(cache, 0o700, exist_ok=True)
    cache_fd = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(cache_fd)  # without locks, `clear` can lock nothing and leaves all
        if os.path.exists(f"{cache}/{name}"):
            return
        clear(cache_fd)
        temporary = f".{name}"
        os.mkdir(temporary, 0o700, dir_fd=cache_fd)
        try:
            build(f"{cache}/{temporary}")
            os.rename(temporary, name, src_dir_fd=cache_fd, dst_dir_fd=cache_fd)
        except BaseException:
            tree.remove_tree(cache_fd, temporary)
            raise
    finally:
        os.close(cache_fd)
