"""Layers of a user's own on an image: directories and squashfs images, which are only read.

A directory that was a writable layer (`place` of `rootfs.mount`) has its files in `upper`. It is
locked, shared, so that no container writes to it meanwhile.

Where it runs: as `rootless.rootfs.mount`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from rootless.errors import RlessError, escape
from rootless.linux import locks
from rootless.linux import mount as mounts
from rootless.rootfs import squashfs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import IdMap
    from rootless.rootfs import Mounted


class Layer(NamedTuple):
    """One of them.

    Attributes:
        path: absolute, of a directory or a file.
        offset, identity: of an image in a file, as for `squashfs.mount`; identity (): it is none.
    """

    path: str
    offset: int = 0
    identity: Sequence[int] = ()


class Above:
    """Directories to be mounted on an image, bottom to top."""

    def __init__(self, layers: Sequence[Layer], workspace: str, idmap: IdMap, cache: str) -> None:
        """Show them.

        Args:
            workspace: of the container. cache: as for `squashfs.mount`.

        Raises:
            RlessError: one is not there, is in use, or cannot be mounted.
        """
        self.paths: list[str] = []
        self._shown: list[squashfs.Lower] = []
        self._lock_fds: list[int] = []
        try:
            for number, layer in enumerate(layers):
                if not layer.identity:
                    self._lock(layer.path)
                    upper = f"{layer.path}/upper"
                    self.paths.append(upper if os.path.isdir(upper) else layer.path)
                    continue
                place = f"{workspace}/above/{number}"
                lower = squashfs.show(layer.path, layer.offset, layer.identity, place, idmap, cache)
                self._shown.append(lower)
                _check_entry(layer.path, lower.path)
                self.paths.append(lower.path)
        except BaseException:
            self.close()
            raise

    def _lock(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RlessError(f"cannot open the overlay {escape(path)}: {error.strerror}") from error
        self._lock_fds.append(fd)
        if locks.lock(fd, shared=True, wait=False) is False:
            raise RlessError(
                f"{escape(path)} is the writable layer of a container that runs",
                "give each one of its own",
            )

    def hand_over(self, mounted: Mounted) -> None:
        """Let them live as long as what was mounted on them."""
        mounted.lock_fds += self._lock_fds
        for lower in self._shown:
            if lower.pid:
                mounts.umount(lower.path)  # taken off its place, the union keeps it
                mounted.helper_pids.append(lower.pid)
            elif lower.lock_fd >= 0:
                mounted.lock_fds.append(lower.lock_fd)

    def close(self) -> None:
        """Take them away."""
        for fd in self._lock_fds:
            os.close(fd)
        for lower in self._shown:
            lower.close()


def _check_entry(path: str, shown: str) -> None:
    """Refuse an image whose root directory is for an owner that the container has not."""
    if not os.access(shown, os.X_OK):
        raise RlessError(
            f"the root directory of {escape(path)} is for its owner only, who is nobody in here",
            "make it again: mksquashfs DIR FILE -all-root",
        )
