"""The directories of `RUN --mount=type=cache`: in the store, across builds, in no layer and no key.

    build/mounts/NAME           a cache; NAME is a digest, so an id is never a path (CVE-2024-9675)
    build/mounts/NAME.N         further ones of sharing=private, while the first is in use
    build/mounts/locks/NAME     its lock: outside of what a RUN can write to; its time: the last use

Owner and mode belong to the identity, because they are those of the first use. So does the id map:
the same numbers are other users under another one.
"""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux import locks, tree
from rootless.rootfs import copy

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_PRIVATE = 1000


def name(map_key: str, cache_id: str, mode: int, uid: int, gid: int) -> str:
    """Return the name of a cache's directory."""
    identity = [map_key, cache_id, mode, uid, gid]
    return hashlib.sha256(jsontext.dumps(identity).encode("utf-8", "backslashreplace")).hexdigest()


class Cache:
    """One cache, which this process has taken.

    Attributes:
        name: of its directory, as `name` gives it. path: of the directory.
    """

    def __init__(self, root: str, name: str) -> None:
        """Say which; nothing is made yet.

        Args:
            root: `build/mounts` of the store.
        """
        self.name = name
        self.path = f"{root}/{name}"
        self._root = root
        self._fd = -1
        self._alone = False

    def take(self, sharing: str, wait: Callable[[], None]) -> None:
        """Lock it until `close`: with others, alone, or another of its name that is free.

        Args:
            sharing: shared, locked or private.
            wait: called once before it has to be waited for.

        Raises:
            RlessError: too many RUNs have a private one.
        """
        os.makedirs(f"{self._root}/locks", 0o700, exist_ok=True)
        for number in range(_MOST_PRIVATE):
            ending = f".{number}" if number else ""
            fd = locks.open_lock(f"{self._root}/locks/{self.name}{ending}")
            shared = sharing == "shared"
            taken = locks.lock(fd, shared=shared, wait=False)
            if taken is False and sharing != "private":
                wait()
                taken = locks.lock(fd, shared=shared)
            if taken is not False:
                os.utime(fd)
                self._fd, self._alone = fd, bool(taken) and not shared
                self.path += ending
                os.utime(fd)  # when it was used last, for `builder prune`
                return
            os.close(fd)
        raise RlessError(f"{_MOST_PRIVATE} RUNs have this cache already")

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def exists(self) -> bool:
        """Tell whether it was used before."""
        return os.path.isdir(self.path)

    def empty_once(self, noted: str) -> None:
        """Forget what it holds, for the next `make`; but not while others use it.

        Args:
            noted: a directory; whoever has it too finds there that this was done, and keeps it.
        """
        try:
            mark = f"{noted}/emptied-{os.path.basename(self.path)}"
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        if not self.exists():
            return
        if not self._alone:
            # Whoever shares it keeps what is there; to wait for them would change what is shared.
            if locks.lock(self._fd, wait=False) is not True:
                locks.lock(self._fd, shared=True)
                return
        try:
            root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                tree.remove_tree(root_fd, os.path.basename(self.path))
            finally:
                os.close(root_fd)
        finally:
            if not self._alone:
                locks.lock(self._fd, shared=True)

    def make(
        self, mode: int, owner: tuple[int, int], seed: int, scratch: str, *, single: bool
    ) -> None:
        """Make it; it appears whole, and if another was faster, that one's is taken.

        Args:
            seed: an open directory whose contents it begins with, which is closed; -1: none.
            scratch: where it is made; does not exist yet, and is cleared up by the caller.
            single: the map has one id only, so it cannot be given away.

        Raises:
            RlessError: the map of the build has no such owner.
            OSError: the disk is full...
        """
        os.mkdir(scratch, 0o700)
        if seed >= 0:
            copy.apply_open(seed, os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        change_owner(scratch, owner, single)
        os.chmod(scratch, mode)
        try:
            os.rename(scratch, self.path)
        except OSError:
            if not self.exists():
                raise


def change_owner(path: str, owner: tuple[int, int], single: bool) -> None:
    """Give a file to a user of the build.

    Args:
        single: the map has one id only; then the file stays that one's.

    Raises:
        RlessError: the map of the build has no such user.
    """
    try:
        os.chown(path, *owner)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if not single:
            raise RlessError(f"user {owner[0]}:{owner[1]} is not in the id map") from error
