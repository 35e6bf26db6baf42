"""The images on disk, and the places of their layers: the read side of the store.

All that a cached `rless run` needs of an image is one small JSON file, found by the digest of the
image's name. Nothing is locked for reading: every file and directory appears by rename, complete or
not at all.

    images/names/<hash of name>.json   one image under one name (and platform)
    images/ids/<config digest>.json    the same image by id; stays when the name moves on
    images/named/<image id>/<hash>     which names an image has (names.py)
    blobs/sha256/<digest>              manifests and configs as they came
    blobs/sha256/<digest>.signatures   those that were seen of a manifest when it came
    layers/<map key>/<chain id>/       one unpacked layer, an overlay lowerdir as it is
    layers/<map key>/<chain id>.json   what was found while unpacking it
    tmp/                               staging; cleared once its owner is dead
    locks/                             held while a layer is made
    partial/<digest>                   the beginning of a blob whose download was interrupted

`<chain id>` is its first 24 hexadecimal digits: the names of 100 layers must fit into the one page
of mount options that older kernels have. The record has the whole of it, and it is compared before
a directory is shared.
"""

from __future__ import annotations

import os

from rootless import jsontext, paths
from rootless.errors import RlessError, escape
from rootless.image.model.digest import is_digest, is_hex
from rootless.image.model.reference import Reference, parse
from rootless.linux import files

try:
    # hashlib costs 3 ms; this is the part of it that is needed, in every CPython since 3.6.
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECORD_VERSION = 1
_CHAIN_DIGITS = 24


class Image:
    """One image of the store.

    Attributes:
        name: the canonical name it was found by; the id if by id.
        id: digest of the config. digest: of the manifest, "" if it came without one.
        config: the "config" object of the image config: Env, Cmd, User, ...
        platform: os, architecture and variant.
        chain: chain ids of the layers, bottom first.
        users: the text of the image's "passwd" and "group" files, "" where it has none.
        keys: map key -> form of the whiteouts ("overlay" or "aufs") of the unpacked layers.
        size: bytes of the unpacked files. created: RFC 3339 text or "".
        digests: all digests the registry knows it by, that of the index too.
        copy_of: the additional store that the record is a copy of, "" for one of our own.
    """

    __slots__ = (
        "chain",
        "config",
        "copy_of",
        "created",
        "digest",
        "digests",
        "id",
        "keys",
        "name",
        "platform",
        "root",
        "size",
        "users",
    )

    def __init__(self, root: str, record: dict[str, Any]) -> None:
        self.root = root
        self.name: str = record["name"]
        self.id: str = record["id"]
        self.digest: str = record["digest"]
        self.digests: list[str] = record["digests"]
        self.config: dict[str, Any] = record["config"]
        self.platform: dict[str, str] = record["platform"]
        self.chain: list[str] = record["chain"]
        self.users: dict[str, str] = record["users"]
        self.keys: dict[str, str] = record["keys"]
        self.size: int = record["size"]
        self.created: str = record["created"]
        self.copy_of: str = record.get("copy_of", "")

    def passwd(self) -> bytes:
        """Return the image's /etc/passwd."""
        return self.users.get("passwd", "").encode("utf-8", "surrogateescape")

    def group(self) -> bytes:
        """Return the image's /etc/group."""
        return self.users.get("group", "").encode("utf-8", "surrogateescape")

    def layer_dirs(self, key: str) -> list[str] | None:
        """Return the layers' directories for a map key, bottom first; None: not all are there.

        An image can have no layers at all: then the list is empty.
        """
        if key not in self.keys:
            return None
        directories = [layer_dir(self.root, key, chain) for chain in self.chain]
        # One look at one of them, against a store from which somebody deleted by hand.
        if directories and not os.path.isdir(directories[-1]):
            return None
        return directories

    def whiteouts(self, key: str) -> str:
        """Return how the layers of a map key mark deleted files: "overlay" or "aufs"."""
        return self.keys.get(key, "overlay")


class Store:
    """Find images in the storage directory `root`, and in the additional stores."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def lookup(
        self, name: str, platform: str | None = None, *, stale: bool = False
    ) -> Image | None:
        """Return the image of that name, or of that id or start of an id; None: not here.

        What the user herself has pulled or tagged hides what an additional store has by that
        name; nothing else does, so a name moves on when it moves on there.

        Args:
            platform: as `--platform`; None means that of the host.
            stale: the image of an archive too that has changed or gone since.

        Raises:
            RlessError: it is neither a name nor an id, or an id's start fits several images.
        """
        found = self.own(name, platform, stale=stale)
        if found is not None and not found.copy_of:
            return found
        for root, mine in paths.additional_stores():
            other = Store(root).own(name, platform, stale=stale)
            if other is None:
                continue
            if found is not None and found.id == other.id:
                return found
            if mine:
                return other
            # Its owners are not those that any map of ours shows: only a copy can run.
            other.keys = {}
            copy = self._by_id(other.id[7:])
            if copy is not None:
                copy.name = other.name
            return copy or other
        return found

    def own(self, name: str, platform: str | None = None, *, stale: bool = False) -> Image | None:
        """Return the image as `lookup` does, from this store alone."""
        bare = name.removeprefix("sha256:")
        if is_hex(bare, 64):
            return self._by_id(bare)
        reference = parse(name)
        record = self.read(name_path(self.root, reference, platform))
        if record is None and platform:
            record = self._of_platform(reference, platform)
        if record is not None and (stale or _is_current(record, reference)):
            return Image(self.root, record)
        if reference.transport != "docker":
            return None
        found = None
        if reference.digest:
            found = self._by_digest(reference)
        elif len(name) >= 2 and is_hex(name, len(name)):
            found = self._by_id(name)
        return found or (self._by_short_name(reference, platform) if reference.short else None)

    def _of_platform(self, reference: Reference, platform: str) -> dict[str, Any] | None:
        """Return the record of a name without a platform, if the image is for this one."""
        from rootless.image.model.platforms import parse_platform

        record = self.read(name_path(self.root, reference))
        parts = ("os", "architecture", "variant")
        if record is not None:
            actual = [record["platform"].get(part) or "" for part in parts]
            if parse_platform(platform).rank(*actual) is not None:
                return record
        return None

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the record in a file, None if there is none that can be read."""
        try:
            record: dict[str, Any] = jsontext.loads(files.read(path))
        except OSError:
            return None
        except ValueError:
            return None  # lost in a power cut: as good as absent, a pull repairs it
        return record if record.get("version") == RECORD_VERSION else None

    def _by_id(self, start: str) -> Image | None:
        directory = f"{self.root}/images/ids"
        if len(start) == 64:
            found = [f"{start}.json"]
        else:
            try:
                found = [entry for entry in os.listdir(directory) if entry.startswith(start)]
            except FileNotFoundError:
                return None
        if len(found) > 1:
            raise RlessError(f"{escape(start)} is the start of several image ids")
        record = self.read(f"{directory}/{found[0]}") if found else None
        return Image(self.root, record) if record else None

    def _by_short_name(self, reference: Reference, platform: str | None) -> Image | None:
        """Find an image that registries.conf gives the short name to."""
        from rootless.image.model import registries_conf

        for candidate in registries_conf.load().candidates(reference):
            record = self.read(name_path(self.root, candidate, platform))
            if record is not None:
                return Image(self.root, record)
            found = self._by_digest(candidate) if candidate.digest else None
            if found is not None:
                return found
        return None

    def _by_digest(self, reference: Reference) -> Image | None:
        """Find an image that was pulled by a tag and is asked for by digest."""
        prefix = f"{reference.registry}/{reference.repository}"
        for record in self.records("names"):
            named = record["name"].rpartition("@")[0] or record["name"].rpartition(":")[0]
            if reference.digest in record["digests"] and named == prefix:
                return Image(self.root, record)
        return None

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind: "names" or "ids"; not on the path of a cached run."""
        directory = f"{self.root}/images/{kind}"
        try:
            entries = sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        found = (self.read(f"{directory}/{entry}") for entry in entries if ".json" in entry)
        return [record for record in found if record is not None]


def layer_dir(root: str, key: str, chain: str) -> str:
    """Return where the layer of that chain id lies, unpacked for that map."""
    return f"{root}/layers/{key}/{chain[7 : 7 + _CHAIN_DIGITS]}"


def split_path(root: str, chain: str) -> str:
    """Return where the record of a layer's tar lies."""
    return f"{root}/splits/{chain[7 : 7 + _CHAIN_DIGITS]}"


def blob_path(root: str, digest: str) -> str:
    """Return where a manifest or config lies."""
    if not is_digest(digest):
        raise RlessError("internal error: a blob without a digest")
    return f"{root}/blobs/sha256/{digest[7:]}"


def signatures_path(root: str, digest: str) -> str:
    """Return the file with the signatures that were seen of a manifest."""
    return f"{blob_path(root, digest)}.signatures"


def name_path(root: str, reference: Reference, platform: str | None = None) -> str:
    """Return the record's file of a name: the name itself never becomes part of a path."""
    text = record_name(reference)
    if platform:
        from rootless.image.model.platforms import parse_platform

        wanted = parse_platform(platform)
        if wanted.explicit:
            text += f"\0{wanted}"
    name = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
    return f"{root}/images/names/{name}.json"


def record_name(reference: Reference) -> str:
    """Return the name that a reference is recorded by; a digest makes its tag meaningless."""
    if reference.digest:
        return f"{reference.registry}/{reference.repository}@{reference.digest}"
    return reference.canonical


def source_state(reference: Reference) -> list[int] | None:
    """Return what tells that an archive has not changed since it was unpacked."""
    path = reference.path
    if not path:
        return None
    if reference.transport == "oci":
        path += "/index.json"
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _is_current(record: dict[str, Any], reference: Reference) -> bool:
    if reference.transport in ("docker", "host"):
        return True
    return bool(record.get("source") == source_state(reference))
