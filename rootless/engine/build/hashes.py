"""The digests of a context's files, remembered from build to build.

A file that has not changed is not read again to know whether a COPY has. It is known by device,
inode, size, and the times of its last change, which no tool sets back (ctime). A file that was
changed within the last two seconds is not remembered: it could change again within one tick of the
file system's clock. The record is a hint for the user's own files, in the user's own store.

One file a context has records of one size, and grows by appending. So builds that run side by side
lose nothing of each other's.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time

from rootless.errors import RlessError
from rootless.paths import private_dir


_RECORD = struct.Struct("<QQQqq32s")
_SETTLED = 2_000_000_000  # nanoseconds
_MOST = 64 << 20  # bytes of records; then it begins anew
_READ = 1 << 20


class Hashes:
    """The sha256 of files, read only where they are not known.

    Args:
        path: the file of records; None: nothing is remembered.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._known: dict[tuple[int, ...], bytes] = {}
        self._new = bytearray()
        self._loaded = path is None

    def find(self, status: os.stat_result) -> bytes | None:
        """Return the sha256 of the file that looks like this, if it is known."""
        if not self._loaded:
            self._loaded = True
            self._load()
        return self._known.get(_key(status))

    def read(self, fd: int) -> bytes:
        """Return the sha256 of an open file from its start, and note it."""
        before = os.fstat(fd)
        now = time.time_ns()
        whole = hashlib.sha256()
        while chunk := os.read(fd, _READ):
            whole.update(chunk)
        digest = whole.digest()
        settled = max(before.st_mtime_ns, before.st_ctime_ns) <= now - _SETTLED
        if self._path is not None and settled and _key(os.fstat(fd)) == _key(before):
            self._known[_key(before)] = digest
            self._new += _RECORD.pack(*_key(before), digest)
        return digest

    def save(self) -> None:
        """Write down what is new; where that fails, the next build reads more."""
        if self._path is None or not self._new:
            return
        try:
            private_dir(os.path.dirname(self._path))
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, self._new)
            finally:
                os.close(fd)
        except (OSError, RlessError):
            pass  # a full disk
        self._new.clear()

    def _load(self) -> None:
        assert self._path is not None
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        with open(fd, "rb") as file:
            data = file.read(_MOST + 1)
        # Cut short by a full disk or a crash, what is appended then lies at no place of a record.
        if len(data) > _MOST or len(data) % _RECORD.size:
            os.unlink(self._path)
            return
        for *key, digest in _RECORD.iter_unpack(data):
            self._known[tuple(key)] = digest


def path_for(root: str, context_fd: int) -> str:
    """Return where a store keeps the records of a context."""
    status = os.fstat(context_fd)
    return f"{root}/build/content/{status.st_dev:x}-{status.st_ino:x}"


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
