"""What layers have become when they were compressed, remembered from push to push.

The same tar gives the same blob each time (`image.layer.compress`). Who knows its digest can ask a
registry for it, and compresses nothing that is there. The record is a hint in the user's own store;
it lies where a build keeps such hints, and goes with them.
"""

from __future__ import annotations

from rootless.image.model.digest import is_digest
from rootless.image.store import hints


class Packed:
    """The blobs of layers, by the digests of their tars.

    Args:
        root: of the store.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, diff_id: str, compression: str, level: int | None) -> tuple[str, int] | None:
        """Return digest and size of the blob that a layer became; None: nobody knows."""
        match hints.find(self._root, "packed", f"{diff_id} {compression} {level}"):
            case {"digest": str(digest), "size": int(size)} if is_digest(digest) and size > 0:
                return digest, size
        return None

    def note(
        self, diff_id: str, compression: str, level: int | None, digest: str, size: int
    ) -> None:
        """Keep what a layer became; where that fails, it is compressed again."""
        said = {"digest": digest, "size": size}
        hints.note(self._root, "packed", f"{diff_id} {compression} {level}", said)
