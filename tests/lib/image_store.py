"""A store for one test, and a look at what is in it as the container would see it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rootless.engine import idmap_policy
from rootless.image.config.user import resolve_user
from rootless.image.store.ownership import everything
from rootless.image.store.store import Image as StoredImage
from rootless.image.store.store import Store
from rootless.image.transfer import pull as puller
from rootless.linux.idmap import IdMap, call_in_userns
from tests.lib import images

SINGLE = IdMap([(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "single")


def map_for(image: StoredImage) -> IdMap:
    """Return the map that `rless run` takes by default."""
    spec = image.config.get("User") or ""
    user = resolve_user(spec, passwd=image.passwd(), group=image.group())
    return idmap_policy.choose("auto", user[:2], idmap_policy.Subordinate())


def map_of(uid: int, gid: int) -> IdMap:
    """Return the map in which the caller is that user."""
    return idmap_policy.build(uid, gid, idmap_policy.Subordinate())


class Workshop:
    """A store below a directory of the test, and archives beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = str(directory / "store")
        self.store = Store(self.root)
        self._made = 0

    def pull(self, name: str, **options: Any) -> StoredImage:
        """Pull quietly, with the map that `run` takes."""
        options = {"idmap_for": map_for, "quiet": True, "policy": "always"} | options
        return puller.pull(name, self.store, **options)

    def unpack(self, image: images.Image | Sequence[bytes], **options: Any) -> StoredImage:
        """Pull an image, or layers, by way of an OCI archive."""
        made = image if isinstance(image, images.Image) else images.Image(image)
        self._made += 1
        path = images.write_oci_archive(made, self.directory / f"{self._made}.tar")
        return self.pull(f"oci-archive:{path}", **options)

    def tree(self, image: StoredImage, layer: int = -1, key: str | None = None) -> Tree:
        """Return what one layer holds, with owners as the container sees them."""
        key = key or next(iter(image.keys))
        directories = image.layer_dirs(key)
        assert directories is not None
        return look(directories[layer], map_for(image) if key != "single" else SINGLE)

    def contents(self) -> dict[str, int]:
        """Return every file and layer of the store with its size; {} if there is no image.

        Equal before and after means "not a byte more". Left out are the store's own frame of
        empty directories and the lock.
        """
        found: dict[str, int] = call_in_userns(everything(), _list, self.root)
        return found


_FRAME = (
    *(".", "lock", "images", "images/names", "images/named", "images/named/.complete"),
    *("images/ids", "blobs", "blobs/sha256"),
    *("layers", "splits"),
)


def _list(root: str) -> dict[str, int]:
    found = {}
    for directory, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[os.path.relpath(path, root)] = (
                status.st_size if stat.S_ISREG(status.st_mode) else 0
            )
    return {path: size for path, size in found.items() if path not in (*_FRAME, "tmp", "locks")}


class Tree(dict[str, dict[str, Any]]):
    """Path -> facts: kind, mode, uid, gid, size, mtime, inode, links, text, link, xattrs."""


def look(directory: str, idmap: IdMap) -> Tree:
    """Walk a layer's directory as root of its user namespace."""
    return Tree(call_in_userns(idmap, _walk, directory))


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}


def _walk(root: str) -> dict[str, dict[str, Any]]:
    found = {".": _facts(root)}
    for directory, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = _facts(path)
    return found


def _facts(path: str) -> dict[str, Any]:
    status = os.lstat(path)
    facts: dict[str, Any] = {
        "kind": _KINDS[stat.S_IFMT(status.st_mode)],
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "blocks": status.st_blocks,
        "mtime": status.st_mtime_ns,
        "inode": status.st_ino,
        "links": status.st_nlink,
        "device": status.st_rdev,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith("security.selinux")
        },
    }
    if facts["kind"] == "link":
        facts["link"] = os.readlink(path)
    if facts["kind"] == "file":
        data = Path(path).read_bytes()
        facts["digest"] = hashlib.sha256(data).hexdigest()
        facts["text"] = data[:2000].decode("utf-8", "replace")
    return facts
