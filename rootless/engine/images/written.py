"""SIF files that were written lately: a second name of one image is no second copy.

Engines keep image files each in a directory of its own. A record in the storage says where the file
of an image was written. While it is that file still, and not open to everybody, another name of it
shares its blocks, or is a hard link on the same file system. So who changes one in place changes
both: no tool does that, a new file takes the old one's name.

Tasks of a job array write the same file at once. Those of one host wait for the first of them on
that file system, and share what it has written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from rootless import jsontext, log
from rootless.image.squashfs.image_file import identity_of
from rootless.image.store.staging import LayerLocks
from rootless.linux import files
from rootless.rootfs.copy import FICLONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Written:
    """The file of one image.

    Args:
        root: of the storage.
        made_of: all that its bytes depend on.
    """

    def __init__(self, root: str, made_of: Sequence[str]) -> None:
        self._root = root
        self._key = _digest(made_of)
        self._record = f"{root}/flat/sif-{self._key[:32]}.json"

    @contextlib.contextmanager
    def turn(self, target: str) -> Iterator[bool]:
        """Wait for another command that writes the file for this file system, or have others wait.

        Yields whether `target` is another name of its file now.

        Raises:
            OSError: nothing can be written there.
        """
        place = str(os.stat(os.path.dirname(target)).st_dev)
        locks = LayerLocks(self._root)
        try:
            waited = locks.take(f"sha256:{_digest((self._key, os.uname().nodename, place))}")
            done = self.reuse(target)
            if waited:
                locks.release()  # what cannot be shared is written by all at once
            yield done
        finally:
            locks.release()

    def reuse(self, target: str) -> bool:
        """Make `target` another name of the file, in the place of what is there; tell if it is.

        Raises:
            OSError: nothing can be written there.
        """
        if os.path.lexists(target):
            target = os.path.realpath(target)
            if not os.path.isfile(target):
                return False  # a pipe, or a link to nothing
        fd = self._open()
        if fd < 0:
            return False
        try:
            mode = os.fstat(fd).st_mode & 0o7777
            try:
                with files.Output(target, mode=mode) as file:
                    fcntl.ioctl(file.fd, FICLONE, fd)
                return True
            except OSError as error:
                log.debug(f"{target}: blocks cannot be shared: {error.strerror}")
            return _link(fd, target)
        finally:
            os.close(fd)

    def note(self, path: str) -> None:
        """Say where the file is now."""
        said = {"path": path, "identity": identity_of(os.stat(path))}
        try:
            os.makedirs(os.path.dirname(self._record), 0o700, exist_ok=True)
            files.write(self._record, jsontext.dumps(said).encode())
        except OSError:
            pass  # it is written anew the next time

    def _open(self) -> int:
        """Open the file, if it is what was written; -1: it is not."""
        try:
            with open(self._record, "rb") as file:
                said: Any = jsontext.loads(file.read())
            fd = os.open(said["path"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError, KeyError, TypeError):
            return -1
        status = os.fstat(fd)
        is_mine = status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH
        is_same = stat.S_ISREG(status.st_mode) and identity_of(status) == said["identity"]
        if not (is_mine and is_same):
            os.close(fd)
            return -1
        return fd


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()


def _link(fd: int, target: str) -> bool:
    """Make a hard link of an open file, in the place of what is there."""
    name = files.name_beside(target)
    try:
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
    except OSError as error:
        log.debug(f"{target}: no hard link: {error.strerror}")
        return False
    try:
        os.rename(name, target)
    except OSError:
        os.unlink(name)
        raise
    if os.path.lexists(name):  # rename(2) does nothing where both are one file already
        os.unlink(name)
    return True
