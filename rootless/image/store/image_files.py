"""Image files that were fetched from elsewhere: each once, in `files` of the store.

A name is a URI, and a platform. Its record says the digest of what it meant when it was asked last,
and is locked while that is fetched: of many who want it, one does, and the others wait.

    files/KEY           the record of a name; KEY is its hash
    files/KEY.part      what has come of it
    files/DIGEST.sif    a file
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from rootless.image.model.digest import is_digest
from rootless.linux.locks import is_at, lock, open_lock
from rootless.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIX, _PART = ".sif", ".part"


class Place:
    """Where what a URI names is kept.

    Attributes:
        part: the path of what has come of it.
    """

    def __init__(self, root: str, uri: str, platform: str = "") -> None:
        self._directory = f"{root}/files"
        private_dir(self._directory)
        key = hashlib.sha256(os.fsencode(f"{uri}\n{platform}")).hexdigest()[:32]
        self._record = f"{self._directory}/{key}"
        self.part = f"{self._record}{_PART}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from fetching it, for a `with` block."""
        while True:
            fd = open_lock(self._record)
            try:
                lock(fd)
                if is_at(fd, self._record):  # else it was removed while it was waited for
                    yield
                    return
            finally:
                os.close(fd)

    def digest(self) -> str:
        """Return what the name meant when it was asked last; "": nobody has asked."""
        try:
            with open(self._record, encoding="ascii") as file:
                found = file.read(100)
        except (OSError, ValueError):
            return ""
        return found if is_digest(found) else ""

    def find(self, digest: str = "") -> str:
        """Return the path of the file with a digest; "": it is not here.

        Args:
            digest: "": what the name meant when it was asked last.
        """
        digest = digest or self.digest()
        path = self._path(digest)
        return path if digest and os.path.exists(path) else ""

    def keep(self, digest: str) -> str:
        """Make `part`, if it is there, the file with this digest, which the name means now."""
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            with open(self.part, "rb") as file:
                os.fsync(file.fileno())  # a power cut must not leave less of it under its digest
            os.rename(self.part, path)
        with open(self._record, "w", encoding="ascii") as record:  # in place: it is the lock, too
            record.write(digest)
        return path

    def _path(self, digest: str) -> str:
        return f"{self._directory}/{digest[7:]}{_SUFFIX}"


def sizes(root: str) -> dict[str, int]:
    """Return the bytes of each file that is kept, by its digits."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{root}/files") as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                found[entry.name.removesuffix(_SUFFIX)] = entry.stat().st_size
    return found


def clear(root: str) -> int:
    """Remove all of them, and what is left of others; return how many bytes that frees.

    A container has its file open, and keeps it. What is just being fetched stays.
    """
    freed = 0
    directory = f"{root}/files"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    for name in names:
        path = f"{directory}/{name}"
        with contextlib.suppress(FileNotFoundError):
            if name.endswith(_SUFFIX):
                freed += _remove(path)
            elif not name.endswith(_PART):
                freed += _remove_record(path)
    return freed


def _remove_record(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    freed = 0
    try:
        if lock(fd, wait=False) is not False and is_at(fd, path):
            with contextlib.suppress(FileNotFoundError):
                freed = _remove(f"{path}{_PART}")
            os.unlink(path)
    finally:
        os.close(fd)
    return freed


def _remove(path: str) -> int:
    size = os.stat(path).st_size
    os.unlink(path)
    return size
