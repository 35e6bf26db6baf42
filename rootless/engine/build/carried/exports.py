"""Write the cache of a build to an OCI layout or a registry (--cache-to).

What the place has already is not written again, and a layer that came from a cache keeps the blob
that it had there, so nothing is compressed anew for it. The manifest comes last. So an export that
is killed leaves the cache of before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Protocol

from rootless.engine.build.carried import table
from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.layer.compress import MEDIA_TYPES, compressed
from rootless.image.layer.tarsplit import open_tar
from rootless.image.model import limits, registries_conf
from rootless.image.model.digest import is_hex, sha256
from rootless.image.model.reference import parse
from rootless.image.registry import http, upload
from rootless.image.registry.endpoint import Endpoint
from rootless.image.registry.http import Client
from rootless.image.store import build_cache, records
from rootless.linux import files
from rootless.linux.files import open_tmpfile
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from rootless.engine.build.carried.imports import Imports
    from rootless.engine.build.carried.places import Place
    from rootless.image.registry.progress import Progress
    from rootless.image.store.build_cache import Entry

    # Brings layers that are not in the store: (chain id, diff_id), the lowest first.
    Bring = Callable[[Sequence[tuple[str, str]]], None]

_CHUNK = 1 << 20


def entries_of(
    root: str, keys: Iterable[str], imports: Imports, chains: Sequence[Sequence[str]] | None
) -> dict[str, Entry]:
    """Return the entries of steps by their keys.

    Args:
        keys: of `Result.keys`.
        chains: of the images: only those that these are made of; None: all.
    """
    found = {}
    for key in keys:
        entry = build_cache.read(root, key) or imports.entries.get(key)
        if entry is not None and (
            chains is None
            or any(entry.chain == tuple(chain[: len(entry.chain)]) for chain in chains)
        ):
            found[key] = entry
    return found


def inline(
    root: str, map_key: str, entries: Mapping[str, Entry], config: dict[str, Any],
    created: float | None,
) -> None:  # fmt: skip
    """Add the table to the config document of an image, which has the layers.

    Args:
        created: of all entries; None: as they have it.
    """
    diff_ids = _diff_ids(root, map_key, entries.values(), {})
    config[table.FIELD] = table.make(
        entries, diff_ids, config["rootfs"]["diff_ids"], created, early=False
    )


def _diff_ids(
    root: str, map_key: str, entries: Iterable[Entry], known: Mapping[str, str]
) -> dict[str, str]:
    """Return the diff_ids of all layers of some entries, by their chain ids."""
    found: dict[str, str] = {}
    for chain in dict.fromkeys(chain for entry in entries for chain in entry.chain):
        meta = records.read_meta(root, map_key, chain)
        if meta is not None:
            found[chain] = meta["diff_id"]
        elif chain in known:
            found[chain] = known[chain]
        else:
            raise RlessError("a layer was removed in the meantime", "run the build again", 1)
    return found


class Exporter:
    """Writes the cache of one build.

    Args:
        root: of the store. map_key: of the map of the build.
        bases: chain ids of the layers of base images.
        scratch: an empty directory of the store's file system.
        bring: gets layers that were found in a cache, and were not needed so far.
    """

    def __init__(
        self,
        root: str,
        map_key: str,
        bases: Collection[str],
        imports: Imports,
        scratch: str,
        bring: Bring,
        progress: Progress,
    ) -> None:
        self._root = root
        self._map = map_key
        self._bases = bases
        self._imports = imports
        self._scratch = scratch
        self._bring = bring
        self._progress = progress

    def write(self, place: Place, entries: Mapping[str, Entry], created: float | None) -> None:
        """Write entries and their layers to a place.

        Args:
            created: of all entries; None: as they have it.

        Raises:
            RlessError: it cannot be written; the place has the cache of before.
        """
        known = _diff_ids(self._root, self._map, entries.values(), self._imports.diff_ids)
        chains: dict[str, tuple[str, ...]] = {}  # diff_id -> the layers up to it
        for entry in entries.values():
            for number, chain in enumerate(entry.chain):
                if chain not in self._bases:
                    chains.setdefault(known[chain], entry.chain[: number + 1])
        if len(chains) > limits.LAYERS:
            raise RlessError(
                f"the cache has {len(chains)} layers; the limit is {limits.LAYERS}",
                "export those of the image only: mode=min",
                1,
            )
        with contextlib.closing(_target(place)) as target:
            layers = [
                self._layer(target, place, diff_id, chain, known)
                for diff_id, chain in chains.items()
            ]
            config = json.dumps(
                {
                    "rootfs": {"type": "layers", "diff_ids": list(chains)},
                    table.FIELD: table.make(
                        entries, known, list(chains), created, early=place.everything
                    ),
                },
                separators=(",", ":"),
            ).encode()
            if len(config) > limits.JSON_BYTES:
                raise RlessError("the table of the cache is too large", "use mode=min", 1)
            target.put_bytes(config)
            document = {
                "schemaVersion": 2,
                "mediaType": spec.OCI_MANIFEST,
                "config": {
                    "mediaType": table.MEDIA_TYPE,
                    "digest": sha256(config),
                    "size": len(config),
                },
                "layers": layers,
            }
            target.finish(json.dumps(document, separators=(",", ":")).encode(), document)

    def _layer(
        self,
        target: Target,
        place: Place,
        diff_id: str,
        chain: Sequence[str],
        known: Mapping[str, str],
    ) -> dict[str, Any]:
        """Put a layer where it is missing; return its descriptor."""
        blob = self._imports.blobs.get(diff_id)
        if blob is not None and blob.digest and target.has(blob.digest, blob.size):
            kind = self._imports.media_types[diff_id]
            return {"mediaType": kind, "digest": blob.digest, "size": blob.size}
        if not records.has_layer(self._root, self._map, chain[-1]):
            self._bring([(name, known[name]) for name in chain])
        with (
            open_tar(self._root, chain[-1], diff_id) as stream,
            open(open_tmpfile(self._scratch), "w+b", buffering=0) as file,
        ):
            shown = self._progress.through(
                diff_id[7:19], ("Exporting", "Exported"), stream, stream.size
            )
            digest, size = _compress(shown, place, file.fileno(), diff_id)
            if not target.has(digest, size):
                target.put(digest, size, file.fileno())
        return {"mediaType": MEDIA_TYPES[place.compression], "digest": digest, "size": size}


def _compress(chunks: Iterable[bytes], place: Place, fd: int, diff_id: str) -> tuple[str, int]:
    hasher = hashlib.sha256()
    size = 0
    for chunk in compressed(chunks, place.compression, place.level):
        hasher.update(chunk)
        size += len(chunk)
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            raise RlessError(
                f"layer {diff_id[7:19]} cannot be stored: {error.strerror}",
                limits.hint(error.errno),
                1,
            ) from error
    return f"sha256:{hasher.hexdigest()}", size


# -- targets -----------------------------------------------------------------------------------


class Target(Protocol):
    """A place that a cache is written to."""

    def has(self, digest: str, size: int) -> bool:
        """Tell whether a blob is there."""

    def put(self, digest: str, size: int, fd: int) -> None:
        """Write a blob, which is in a file."""

    def put_bytes(self, data: bytes) -> None:
        """Write a blob that is small."""

    def finish(self, data: bytes, document: Mapping[str, Any]) -> None:
        """Write the manifest, with which the cache appears."""

    def close(self) -> None:
        """Close connections and files."""


def _target(place: Place) -> Target:
    return _Repository(place) if place.kind == "registry" else _Layout(place)


class _Repository:
    """A repository of a registry."""

    def __init__(self, place: Place) -> None:
        self._reference = parse(place.where)
        self._what = escape(self._reference.familiar)
        self._client = Client(http.insecure_registries())
        location = registries_conf.load().own(self._reference)
        self._endpoint = Endpoint(self._client, location, self._what, "pull,push")

    def has(self, digest: str, size: int) -> bool:
        return upload.exists(self._endpoint, digest)

    def put(self, digest: str, size: int, fd: int) -> None:
        blob = upload.Blob(digest, size, lambda offset, count: os.pread(fd, count, offset))
        upload.upload(self._endpoint, blob, f"{self._what}: layer {digest[7:19]}")

    def put_bytes(self, data: bytes) -> None:
        digest = sha256(data)
        if not self.has(digest, len(data)):
            blob = upload.Blob(digest, len(data), lambda start, count: data[start : start + count])
            upload.upload(self._endpoint, blob, f"{self._what}: table of the cache")

    def finish(self, data: bytes, document: Mapping[str, Any]) -> None:
        tag = self._reference.tag or "latest"
        upload.put_manifest(self._endpoint, tag, data, spec.OCI_MANIFEST, self._what)

    def close(self) -> None:
        self._client.close()


class _Layout:
    """An OCI layout. What no manifest of it names any more goes, or it would grow for ever."""

    def __init__(self, place: Place) -> None:
        self._path = place.where
        self._tag = place.tag
        try:
            os.makedirs(f"{self._path}/blobs/sha256", exist_ok=True)
            # Held until the end: of two builds at once, none removes what the other has written.
            self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._others = [entry for entry in self._entries() if _tag_of(entry) != self._tag]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RlessError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message = f"cannot write the cache to {escape(self._path)}: {error.strerror}"
        return RlessError(message, "free some space there" if full else None, 1)

    def _entries(self) -> list[dict[str, Any]]:
        """Return the manifests that the layout has.

        Raises:
            RlessError: there is something else.
        """
        what = f"{escape(self._path)}/index.json"
        try:
            with open(f"{self._path}/index.json", "rb") as file:
                document = manifest.read_object(file.read(limits.JSON_BYTES + 1), what)
        except FileNotFoundError:
            return []
        return [dict(entry) for entry in manifest.parse_index(document, what)["manifests"]]

    def _blob(self, digest: str) -> str:
        return f"{self._path}/blobs/sha256/{digest[7:]}"

    def has(self, digest: str, size: int) -> bool:
        try:
            return os.stat(self._blob(digest)).st_size == size
        except FileNotFoundError:
            return False

    def put(self, digest: str, size: int, fd: int) -> None:
        try:
            with files.Output(self._blob(digest), mode=files.default_mode()) as made:
                position = 0
                while chunk := os.pread(fd, _CHUNK, position):
                    position += len(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(made.fd, view) :]
        except OSError as error:
            raise self._failed(error) from error

    def put_bytes(self, data: bytes) -> None:
        self._write(self._blob(sha256(data)), data)

    def _write(self, path: str, data: bytes) -> None:
        try:
            files.write(path, data, mode=files.default_mode())
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, data: bytes, document: Mapping[str, Any]) -> None:
        self.put_bytes(data)
        entry = {
            "mediaType": spec.OCI_MANIFEST,
            "digest": sha256(data),
            "size": len(data),
            "annotations": {spec.REF_NAME: self._tag},
        }
        index = {
            "schemaVersion": 2,
            "mediaType": spec.OCI_INDEX,
            "manifests": [*self._others, entry],
        }
        self._write(f"{self._path}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self._write(f"{self._path}/index.json", json.dumps(index).encode())
        if all(self._is_cache(other) for other in self._others):
            self._clear([*self._others, entry])

    def _document(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        with open(self._blob(entry["digest"]), "rb") as file:
            data = file.read(limits.JSON_BYTES + 1)
        return manifest.parse_manifest(
            manifest.read_object(data, "manifest"), "manifest", [table.MEDIA_TYPE]
        )

    def _is_cache(self, entry: Mapping[str, Any]) -> bool:
        """Tell whether a manifest is a cache of rless: of these it is known what they need."""
        try:
            self._document(entry)
        except (OSError, RlessError):
            return False
        return True

    def _clear(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Delete the blobs that no manifest names."""
        needed = set()
        for entry in entries:
            document = self._document(entry)
            needed |= {entry["digest"][7:], document["config"]["digest"][7:]}
            needed |= {layer["digest"][7:] for layer in document["layers"]}
        for name in os.listdir(f"{self._path}/blobs/sha256"):
            if is_hex(name, 64) and name not in needed:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._path}/blobs/sha256/{name}")

    def close(self) -> None:
        os.close(self._lock)


def _tag_of(entry: Mapping[str, Any]) -> object:
    annotations = entry.get("annotations")
    return annotations.get(spec.REF_NAME) if isinstance(annotations, dict) else None
