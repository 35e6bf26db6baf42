"""Blobs that are being downloaded, and what an interrupted pull leaves of them for the next one.

A small blob goes into a file without a name. A blob from `limits.RESUME_BYTES` on is written to
`partial/<digest>` in the store, which its writer locks. So the next pull that needs the blob, of
whatever image, finds what came before Ctrl-C, SIGKILL or the loss of the network. It reads that
through the hash and requests the rest. The name is not trusted: if the final digest is wrong, as
after a power cut, the blob is fetched again from its first byte.

A file is removed when its blob is unpacked, and when the image is refused; else by `prune`, or when
no pull has come back to it for `limits.RESUME_SECONDS`.
"""

from __future__ import annotations

import contextlib
import os
import time

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import is_digest
from rootless.image.model.source import TransferError
from rootless.linux.files import open_tmpfile
from rootless.linux.locks import is_at, lock, unlock
from rootless.paths import private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rootless.image.layer.layers import LayerBlob

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class Downloads:
    """A file for each blob that is to be downloaded. A `with` block.

    What has arrived stays if the block was interrupted, or the network was.
    """

    def __init__(self, root: str, scratch: str) -> None:
        self._directory = f"{root}/partial"
        self._scratch = scratch
        self._fds: dict[str, int] = {}
        self._named: dict[str, int] = {}  # path -> descriptor

    def __enter__(self) -> Downloads:
        return self

    def open(self, layers: Sequence[LayerBlob]) -> None:
        """Set the file of each layer that has none; equal blobs share theirs."""
        for layer in layers:
            if layer.fd < 0:
                key = layer.digest or layer.chain
                if key not in self._fds:
                    self._fds[key] = self._open(layer)
                layer.fd = self._fds[key]

    def _open(self, layer: LayerBlob) -> int:
        if layer.size >= limits.RESUME_BYTES and is_digest(layer.digest):
            private_dir(self._directory)
            path = f"{self._directory}/{str(layer.digest)[7:]}"
            try:
                fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
            except FileNotFoundError:
                return self._open(layer)  # the directory went, with the last file of another pull
            except OSError as error:
                raise RlessError(f"cannot write {path}: {error.strerror}", limits.NO_ROOM) from None
            if lock(fd, wait=False) and is_at(fd, path):
                self._named[path] = fd
                return fd
            os.close(fd)  # another pull is at it, or the file system has no locks
        return open_tmpfile(self._scratch)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_refused = isinstance(value, RlessError) and not isinstance(value, TransferError)
        for path, fd in self._named.items():
            if value is None or is_refused or os.fstat(fd).st_size < limits.RESUME_BYTES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            # Not only by closing: a child that is just dying has it, too.
            unlock(fd)
        for fd in self._fds.values():
            os.close(fd)
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)


def clear(root: str, *, every: bool = False) -> int:
    """Delete what nobody has come back to for long, or all; return how many bytes that frees.

    What is just being downloaded stays.
    """
    directory = f"{root}/partial"
    freed = 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                fd = os.open(path, _FLAGS)
                try:
                    status = os.fstat(fd)
                    is_old = time.time() - status.st_mtime > limits.RESUME_SECONDS
                    if (every or is_old) and lock(fd, wait=False) is not False and is_at(fd, path):
                        os.unlink(path)
                        freed += status.st_size
                finally:
                    os.close(fd)
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return freed
