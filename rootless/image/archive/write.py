"""Save: write images of the store to an archive that other tools read, layers byte for byte.

Forms, by Podman's names:

- `docker-archive`: as Docker 25 and later: an OCI layout that has `manifest.json` and
  `repositories` too. Layers are plain tars, so their names are their diff_ids.
- `oci-archive`, `oci-dir`: an OCI layout, as a tar or a directory. Layers may be compressed.
- `docker-dir`: skopeo's `dir:`: one image, its manifest and blobs in one directory.

`tarsplit` writes each layer again, and verifies it meanwhile. Several images share what they have
in common. A file appears under its name once it is complete: a save that was killed leaves nothing,
not even a file without a name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Protocol

from rootless.errors import RlessError, escape
from rootless.image.config.index import index_document, platform_of
from rootless.image.layer.compress import MEDIA_TYPES, compressed
from rootless.image.layer.tar_reader import DIRECTORY
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.layer.tarsplit import diff_ids, open_layer
from rootless.image.model import limits
from rootless.image.model.digest import sha256
from rootless.image.model.packing import Packing
from rootless.image.model.reference import familiar_repository
from rootless.image.store import records
from rootless.linux.files import open_tmpfile
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from rootless.image.layer.tarsplit import LayerStream
    from rootless.image.registry.progress import Progress
    from rootless.image.store.store import Image, Store

FORMATS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")
COMPRESSIONS = ("gzip", "zstd")
_CHUNK = 1 << 20
_SAVES = ("Saving", "Saved")


class Target(Protocol):
    """Where the files of a saved image go."""

    def put(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        """Write one file of exactly that size."""


def save(
    store: Store,
    images: Sequence[tuple[Image, Sequence[str]]],
    target: Target,
    scratch: str,
    *,
    form: str = "docker-archive",
    packing: Packing | None = None,
    progress: Progress,
    sign: Callable[[str], list[bytes]] | None = None,
    index_names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Write images to a target; return the descriptors of their manifests, or of their index.

    Args:
        images: each with the names that the archive has for it, in full.
        scratch: a directory for compressed layers, whose digest must be known before.
        form: one of FORMATS. packing: None leaves the layers plain.
        sign: for a docker-dir: returns signatures for the digest of its manifest.
        index_names: for an OCI layout: the names, in full, of an index of the images, which have
            none themselves; None: there is no such index.

    Raises:
        RlessError: a layer cannot be restored; no room.

    Where it runs: on the host; the caller must have no second thread.
    """
    writer = _Writer(store, target, scratch, form, packing or Packing(), progress)
    if form == "docker-dir":
        writer.directory(images[0][0], sign)
        return []
    index = []
    entries = []
    made = [writer.image(image) for image, _ in images]
    for (image, names), one in zip(images, made, strict=True):
        index += writer.index_entries(one, names)
        entries.append(writer.docker_entry(image, one, names))
    if index_names is not None:
        index = writer.index_entries(writer.index(made), index_names)
    writer.text("index.json", {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": index})
    if form == "docker-archive":
        writer.text("manifest.json", entries)
        repositories = _repositories(entries)
        if repositories:
            writer.text("repositories", repositories)
    writer.text("oci-layout", {"imageLayoutVersion": "1.0.0"})
    return [{key: entry[key] for key in ("mediaType", "digest", "size")} for entry in index]


class _Writer:
    """Write the blobs of images, each once."""

    def __init__(
        self,
        store: Store,
        target: Target,
        scratch: str,
        form: str,
        packing: Packing,
        progress: Progress,
    ) -> None:
        self._store = store
        self._target = target
        self._scratch = scratch
        self._packing = packing
        self._compression = packing.compression or ""
        self._progress = progress
        self._prefix = "" if form == "docker-dir" else "blobs/sha256/"
        self._layers: dict[str, dict[str, Any]] = {}  # diff_id -> descriptor
        self._written: set[str] = set()

    def text(self, name: str, value: object) -> bytes:
        """Write a JSON document and return it."""
        data = json.dumps(value, separators=(",", ":")).encode()
        self._put(name, data)
        return data

    def _put(self, name: str, data: bytes) -> None:
        self._target.put(name, len(data), iter((data,)))

    def _blob(self, data: bytes) -> str:
        digest = sha256(data)
        if digest not in self._written:
            self._written.add(digest)
            self._put(self._prefix + digest[7:], data)
        return digest

    def image(self, image: Image) -> dict[str, Any]:
        """Write layers, config and manifest of an image; return the manifest's descriptor."""
        manifest = self._manifest(image, spec.OCI_MANIFEST, spec.OCI_CONFIG)
        data = json.dumps(manifest, separators=(",", ":")).encode()
        digest = self._blob(data)
        return {
            "mediaType": spec.OCI_MANIFEST,
            "digest": digest,
            "size": len(data),
            "platform": platform_of(image),
            "layers": manifest["layers"],
        }

    def index(self, made: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Write an index of images, by what `image` has returned; return its descriptor."""
        data = json.dumps(index_document(made, self._packing), separators=(",", ":")).encode()
        return {"mediaType": spec.OCI_INDEX, "digest": self._blob(data), "size": len(data)}

    def _manifest(self, image: Image, kind: str, config_kind: str) -> dict[str, Any]:
        config = records.get_blob(image.root, image.id)
        layers = [
            self._layer(image, number, diff_id) for number, diff_id in enumerate(diff_ids(image))
        ]
        if config is None or self._blob(config) != image.id:
            raise RlessError(f"the config of image {image.id[7:19]} was changed", "pull it again")
        made: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": config_kind, "digest": image.id, "size": len(config)},
            "layers": layers,
        }
        if self._packing.annotations:
            made["annotations"] = self._packing.annotations
        return made

    def _layer(self, image: Image, number: int, diff_id: str) -> dict[str, Any]:
        found = self._layers.get(diff_id)
        if found is None:
            with open_layer(self._store, image, number) as stream:
                if self._compression:
                    found = self._compressed(stream, diff_id)
                else:
                    chunks = self._progress.through(_short(diff_id), _SAVES, stream, stream.size)
                    self._target.put(self._prefix + diff_id[7:], stream.size, chunks)
                    found = {"mediaType": MEDIA_TYPES[""], "digest": diff_id, "size": stream.size}
            self._layers[diff_id] = found
        return found

    def _compressed(self, stream: LayerStream, diff_id: str) -> dict[str, Any]:
        """Compress a layer into a file without a name, then copy it."""
        with open(open_tmpfile(self._scratch), "w+b", buffering=0) as file:
            hasher = hashlib.sha256()
            plain = self._progress.through(
                _short(diff_id), ("Compressing", "Compressed"), stream, stream.size
            )
            for chunk in compressed(plain, self._compression, self._packing.level):
                hasher.update(chunk)
                view = memoryview(chunk)
                while view:
                    try:
                        view = view[file.write(view) :]
                    except OSError as error:  # not to be taken for one of the target
                        raise RlessError(
                            f"layer {diff_id[7:19]} cannot be compressed: {error.strerror}",
                            limits.hint(error.errno),
                            exit_code=1,
                        ) from error
            size = file.tell()
            file.seek(0)
            digest = f"sha256:{hasher.hexdigest()}"
            chunks = iter(lambda: file.read(_CHUNK), b"")
            shown = self._progress.through(_short(diff_id), _SAVES, chunks, size)
            self._target.put(self._prefix + digest[7:], size, shown)
        return {"mediaType": MEDIA_TYPES[self._compression], "digest": digest, "size": size}

    def index_entries(self, made: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the entries of an image in index.json: one for each name, as containerd does."""
        plain = {key: value for key, value in made.items() if key != "layers"}
        found = []
        for name in names:
            tag = "" if "@" in name else name.rpartition(":")[2]
            annotations = {spec.CONTAINERD_NAME: name}
            if tag:
                annotations[spec.REF_NAME] = tag
            found.append({**plain, "annotations": annotations})
        return found or [plain]

    def docker_entry(
        self, image: Image, made: dict[str, Any], names: Sequence[str]
    ) -> dict[str, Any]:
        """Return the entry of an image in manifest.json."""
        tags = [familiar_repository(name) for name in names if "@" not in name]
        return {
            "Config": self._prefix + image.id[7:],
            "RepoTags": tags or None,
            "Layers": [self._prefix + layer["digest"][7:] for layer in made["layers"]],
        }

    def directory(self, image: Image, sign: Callable[[str], list[bytes]] | None) -> None:
        """Write the one image of a `dir:`, whose manifest is Docker's, and new signatures of it.

        The signatures that the image was pulled with are for another manifest.
        """
        gzip, plain = spec.DOCKER_LAYER_GZIP, spec.DOCKER_LAYER_GZIP.removesuffix(".gzip")
        manifest = self._manifest(image, spec.DOCKER_MANIFEST, spec.DOCKER_CONFIG)
        for layer in manifest["layers"]:
            layer["mediaType"] = gzip if self._compression else plain
        digest = sha256(self.text("manifest.json", manifest))
        for number, signature in enumerate(sign(digest) if sign else (), 1):
            self._put(f"signature-{number}", signature)
        self._put("version", b"Directory Transport Version: 1.1\n")


def _short(diff_id: str) -> str:
    return diff_id[7:19]


def _repositories(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return what very old readers want: repository -> tag -> top layer."""
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        for name in entry["RepoTags"] or ():
            repository, _, tag = name.rpartition(":")
            if entry["Layers"]:
                found.setdefault(repository, {})[tag] = os.path.basename(entry["Layers"][-1])
    return found


# -- targets -----------------------------------------------------------------------------------


class TarTarget:
    """Write a tar archive to a descriptor."""

    def __init__(self, fd: int) -> None:
        self._tar = TarWriter(fd)
        self._directories: set[str] = set()

    def put(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        """Add a member, and its directories before it."""
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            if directory not in self._directories:
                self._directories.add(directory)
                self._tar.add(directory.encode(), 0o755, kind=DIRECTORY)
        self._tar.add(name.encode(), 0o644, size=size)
        for chunk in chunks:
            self._tar.data(chunk)

    def end(self) -> None:
        """Write the end of the archive."""
        self._tar.end()


class DirectoryTarget:
    """Write files below a directory that is made here."""

    def __init__(self, path: str) -> None:
        self._path = path

    def put(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        """Write a file."""
        path = f"{self._path}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            for chunk in chunks:
                file.write(chunk)


class Directory:
    """A directory that appears under its name once it is complete. A `with` block."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self.path = f"{self._path}.{os.urandom(6).hex()}.tmp"

    def __enter__(self) -> Directory:
        try:
            if os.path.lexists(self._path) and (
                not os.path.isdir(self._path) or os.listdir(self._path)
            ):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.mkdir(self.path, 0o755)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def _failed(self, error: OSError) -> RlessError:
        hint = "name one that is not there yet" if error.errno == errno.EEXIST else None
        return RlessError(f"cannot write {escape(self._path)}: {error.strerror}", hint, exit_code=1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                os.rename(self.path, self._path)
                return
            except OSError as error:
                value = error
        from rootless.image.store.ownership import delete_any

        delete_any(os.path.dirname(self.path), os.path.basename(self.path))
        if isinstance(value, OSError):
            raise self._failed(value) from value


def not_written(error: OSError, path: str) -> RlessError:
    """Return the error of a file that cannot be written."""
    hint = "free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    message = f"cannot write {escape(error.filename or path)}: {error.strerror}"
    return RlessError(message, hint, exit_code=1)


def no_room(error: OSError) -> RlessError:
    """Return the error of a target that is full or gone, as standard output can be."""
    return RlessError(
        f"cannot write the archive: {error.strerror}", limits.hint(error.errno), exit_code=1
    )
