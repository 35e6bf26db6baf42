"""What layers have become when they were compressed, remembered from push to push.

The same tar gives the same blob each time (`image.layer.compress`). Who knows its digest can ask a
registry for it, and compresses nothing that is there. The record is a hint in the user's own store;
it lies where a build keeps such hints, and goes with them.
"""

from __future__ import annotations

import hashlib

from rootless import jsontext
from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import is_digest
from rootless.linux import files
from rootless.paths import private_dir


class Packed:
    """The blobs of layers, by the digests of their tars.

    Args:
        root: of the store.
    """

    def __init__(self, root: str) -> None:
        self._directory = f"{root}/build/content"

    def find(self, diff_id: str, compression: str, level: int | None) -> tuple[str, int] | None:
        """Return digest and size of the blob that a layer became; None: nobody knows."""
        try:
            with open(self._path(diff_id, compression, level), "rb") as file:
                found = jsontext.loads(file.read(limits.USER_FILE_BYTES))
        except (OSError, ValueError, RlessError):
            return None
        match found:
            case {"digest": str(digest), "size": int(size)} if is_digest(digest) and size > 0:
                return digest, size
        return None

    def note(
        self, diff_id: str, compression: str, level: int | None, digest: str, size: int
    ) -> None:
        """Keep what a layer became; where that fails, it is compressed again."""
        said = jsontext.dumps({"digest": digest, "size": size})
        try:
            private_dir(self._directory)
            files.write(self._path(diff_id, compression, level), said.encode())
        except (OSError, RlessError):
            pass  # a full disk

    def _path(self, diff_id: str, compression: str, level: int | None) -> str:
        key = hashlib.sha256(f"{diff_id} {compression} {level}".encode()).hexdigest()
        return f"{self._directory}/packed-{key}"
