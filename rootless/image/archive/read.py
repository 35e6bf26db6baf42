"""Images in files: docker-archive and oci-archive tars, and OCI layout directories.

The outer tar is only ever indexed: its members' names are keys of a dictionary and never paths on
the host, so a member called `../../etc/passwd` does no harm (security class 13). Layers are read
where they are; nothing is extracted. A directory is read by openat2 without links. Only an archive
that is compressed as a whole is written out once, uncompressed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from typing import TYPE_CHECKING, Any, Protocol

from rootless import log
from rootless.errors import RlessError, SyscallError, escape
from rootless.image.config import manifest
from rootless.image.config.manifest import ManifestError
from rootless.image.layer.decompress import BlobStream
from rootless.image.layer.layers import LayerBlob
from rootless.image.layer.tar_reader import REGULAR, SYMLINK, TarReader
from rootless.image.model import limits
from rootless.image.model.digest import chain_ids, is_hex, sha256
from rootless.image.model.reference import parse
from rootless.image.model.source import Found
from rootless.linux.files import open_tmpfile, read_at
from rootless.linux.openat2 import BENEATH, openat2
from rootless.oci.image_spec import CONTAINERD_NAME, REF_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.model.reference import Reference
    from rootless.image.registry.progress import Progress
    from rootless.oci.image_spec import Descriptor

_MOST_SHOWN = 5  # names in a warning
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Files(Protocol):
    """Files by name inside an archive or a directory."""

    def open(self, name: str) -> tuple[int, int, int] | None:
        """Return (fd, offset, size) of a regular file; None: there is none of that name."""

    def close(self) -> None:
        """Close all that `open` gave."""


class TarFiles:
    """Look up the members of a tar without extracting any.

    Args:
        path: the archive. scratch: where it is written uncompressed if it is compressed.
        fd: the archive, if it is open already; it is closed here. Then `path` only names it.
        progress: told of the decompression.
    """

    def __init__(
        self, path: str, scratch: str, fd: int = -1, progress: Progress | None = None
    ) -> None:
        self._path = path
        self._fd = fd if fd >= 0 else _open_regular(path)
        try:
            size = os.fstat(self._fd).st_size
            whole = BlobStream(self._fd, 0, size, escape(path))
            if whole.compression != "none":
                size = self._decompress(whole, scratch, progress)
            self._size = size
            self._index: dict[str, tuple[int, int]] = {}
            self._links: dict[str, str] = {}
            self._read_index()
        except BaseException:
            os.close(self._fd)
            raise

    def _decompress(self, whole: BlobStream, scratch: str, progress: Progress | None) -> int:
        """Put an unlinked file with the plain archive in place of the compressed one."""
        fd = open_tmpfile(scratch)
        size = 0
        chunks: Iterable[bytes] = whole
        if progress is not None:
            states = ("Decompressing", "Decompressed")
            chunks = progress.through(escape(self._path), states, whole)
        try:
            with open(fd, "wb", closefd=False) as file:
                for chunk in chunks:
                    size += file.write(chunk)
                    if size > limits.LAYER_BYTES:
                        raise RlessError(f"{self._path} decompresses to too much")
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise RlessError(
                    f"cannot decompress {self._path}: {error.strerror}", limits.hint(error.errno)
                ) from error
            raise
        os.close(self._fd)
        self._fd = fd
        return size

    def _read_index(self) -> None:
        position = _Position(self._fd, self._size, escape(self._path))
        reader = TarReader(position, escape(self._path), skip=position.skip)
        for member in reader:
            if reader.members > limits.ARCHIVE_MEMBERS:
                raise RlessError(f"{self._path} has more than {limits.ARCHIVE_MEMBERS} members")
            name = member.name.decode("utf-8", "surrogateescape").removeprefix("./")
            self._index.pop(name, None)
            self._links.pop(name, None)
            if member.kind == REGULAR and member.sparse is None:
                self._index[name] = (reader.offset, member.size)
            elif member.kind == SYMLINK:
                self._links[name] = member.link.decode("utf-8", "surrogateescape")

    def open(self, name: str) -> tuple[int, int, int] | None:
        """Return (fd, offset, size) of a regular member."""
        found = self._index.get(name)
        return None if found is None else (self._fd, *found)

    def open_layer(self, name: str) -> tuple[int, int, int] | None:
        """Return a layer, which older `docker save` may have as a link to another member.

        The link is a key for the same index: it can lead to a member and to nothing else.
        """
        link = self._links.get(name)
        if link is not None:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
        return self.open(name)

    def close(self) -> None:
        """Close the archive."""
        os.close(self._fd)


class _Position:
    """Reads a file in chunks, and can skip parts of it."""

    def __init__(self, fd: int, size: int, what: str) -> None:
        self._fd = fd
        self._size = size
        self._what = what
        self._at = 0

    def __iter__(self) -> Iterator[bytes]:
        while chunk := read_at(self._fd, 16 << 10, self._at, self._what):
            self._at += len(chunk)
            yield chunk

    def skip(self, size: int) -> bool:
        """Jump forward; False: there is less."""
        self._at += size
        return self._at <= self._size


class DirectoryFiles:
    """Look up the files of an OCI layout directory."""

    def __init__(self, path: str) -> None:
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RlessError(f"cannot open {path}: {error.strerror}") from error
        self._open: list[int] = []

    def open(self, name: str) -> tuple[int, int, int] | None:
        """Return (fd, 0, size) of a file; links are refused wherever they lead."""
        try:
            fd = openat2(self._root, name, _READ, resolve=BENEATH)
        except SyscallError:
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        self._open.append(fd)
        return fd, 0, status.st_size

    def close(self) -> None:
        """Close the directory and all files."""
        for fd in (self._root, *self._open):
            os.close(fd)


def _open_regular(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RlessError(f"cannot open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RlessError(f"{path} is not a regular file")
    return fd


def read_document(files: Files, name: str, what: str) -> bytes:
    """Return a file of an archive or a directory that is small enough to be a document."""
    found = files.open(name)
    if found is None:
        raise ManifestError(f"{what} has no file {escape(name)[:120]}")
    fd, offset, size = found
    if size > limits.JSON_BYTES:
        raise ManifestError(
            f"{what}: {escape(name)[:120]} is larger than {limits.JSON_BYTES} bytes"
        )
    data = b""
    while len(data) < size and (chunk := read_at(fd, size - len(data), offset + len(data), what)):
        data += chunk
    return data


class DockerArchive:
    """Find an image in what `docker save` wrote.

    Args:
        files: the archive, if it is open already; it is left open then.
    """

    def __init__(self, reference: Reference, scratch: str, files: TarFiles | None = None) -> None:
        self._reference = reference
        self._what = escape(reference.path)
        self._files = files or TarFiles(reference.path, scratch)
        self._keeps_open = files is not None

    def find(self, wanted: PlatformRequest) -> Found:
        """Return the image that the reference names, or the only one."""
        entry = self._choose(self._document())
        config_name, names = _entry_files(entry, self._what)
        data = read_document(self._files, config_name, self._what)
        image_id = sha256(data)
        stem = posixpath.basename(config_name).removesuffix(".json")
        if is_hex(stem, 64) and image_id != f"sha256:{stem}":
            raise ManifestError(f"{self._what}: the config does not have the digest of its name")
        what = f"{self._what}: image config"
        config = manifest.parse_config(data, what, len(names))
        manifest.check_platform(config, wanted, self._what)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = []
        for name, diff_id, chain in zip(names, diff_ids, chain_ids(diff_ids), strict=True):
            found = self._files.open_layer(name)
            if found is None:
                raise ManifestError(f"{self._what} has no layer {escape(name)[:120]}")
            layer = LayerBlob(None, found[2], diff_id, chain)
            layer.fd, layer.offset, _ = found
            layers.append(layer)
        return Found(
            manifest=b"",
            digests=[],
            config_data=data,
            config=config,
            image_id=image_id,
            layers=layers,
        )

    def _document(self) -> list[dict[str, Any]]:
        document = manifest.read_json(
            read_document(self._files, "manifest.json", self._what), f"{self._what}: manifest.json"
        )
        if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
            raise ManifestError(f"{self._what}: manifest.json is not a list of objects")
        if len(document) > limits.INDEX_CHILDREN:
            raise ManifestError(f"{self._what}: manifest.json has {len(document)} images")
        return document

    def _choose(self, document: list[dict[str, Any]]) -> dict[str, Any]:
        tag = self._reference.tag
        if tag and tag.startswith("@"):
            number = int(tag[1:]) if tag[1:].isdigit() and len(tag) < 6 else -1
            if 0 <= number < len(document):
                return dict(document[number])
            raise ManifestError(f"{self._what} has no image number {tag[1:]}")
        names = [(item, name) for item in document for name in _repo_tags(item)[0]]
        if tag:
            for item, name in names:
                if name == tag:
                    return dict(item)
        elif len(document) == 1:
            return dict(document[0])
        shown = escape(", ".join(sorted(name for _, name in names)))[:300]
        why = f"has no image {tag}" if tag else f"has {len(document)} images"
        raise ManifestError(
            f"{self._what} {why}", f"name one of: {shown}" if shown else "choose by :@NUMBER"
        )

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Do nothing: `find` has pointed each layer to where it lies in the archive."""

    def may_restart(self) -> bool:
        """Tell that a file does not change its mind."""
        return False

    def close(self) -> None:
        """Close the archive."""
        if not self._keeps_open:
            self._files.close()

    def entries(self) -> list[list[str]]:
        """Return the names of each image in the archive, in full; warn of what is no name."""
        found = [_repo_tags(item) for item in self._document()]
        _warn_of(self._what, [text for _, others in found for text in others])
        return [names for names, _ in found]


class OciLayout:
    """Find an image in an OCI layout: a directory or a tar of one.

    Args:
        files: the layout, if it is open already; it is left open then.
    """

    def __init__(self, reference: Reference, scratch: str, files: Files | None = None) -> None:
        self._reference = reference
        self._what = escape(reference.path)
        self._files: Files
        self._keeps_open = files is not None
        if files is not None:
            self._files = files
        elif reference.transport == "oci":
            self._files = DirectoryFiles(reference.path)
        else:
            self._files = TarFiles(reference.path, scratch)

    def find(self, wanted: PlatformRequest, kinds: Sequence[str] = manifest.IMAGES) -> Found:
        """Return the image that the reference names, or the only one.

        Args:
            kinds: media types of configs that are taken.
        """
        what = self._what
        entry = self._choose(self._index())
        first = self._document(entry, what)
        data, content = manifest.resolve(
            first, entry["mediaType"], wanted, self._document, what, kinds
        )
        config_data = self._document(content["config"], f"{what}: image config")
        config = manifest.parse_config(config_data, f"{what}: image config", len(content["layers"]))
        manifest.check_platform(config, wanted, what)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = []
        for descriptor, diff_id, chain in zip(
            content["layers"], diff_ids, chain_ids(diff_ids), strict=True
        ):
            layer = LayerBlob(descriptor["digest"], descriptor["size"], diff_id, chain)
            place(layer, self._files.open(_blob(descriptor["digest"])), what)
            layers.append(layer)
        digests = list(dict.fromkeys([entry["digest"], sha256(data)]))
        return Found(
            manifest=data,
            digests=digests,
            config_data=config_data,
            config=config,
            image_id=content["config"]["digest"],
            layers=layers,
        )

    def _index(self) -> list[Descriptor]:
        what = self._what
        layout = manifest.read_object(
            read_document(self._files, "oci-layout", what), f"{what}: oci-layout"
        )
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ManifestError(f"{what} is not an OCI layout of version 1.0.0")
        document = manifest.read_object(
            read_document(self._files, "index.json", what), f"{what}: index.json"
        )
        return list(manifest.parse_index(document, f"{what}: index.json")["manifests"])

    def entries(self) -> list[list[str] | None]:
        """Return the names of each image in the layout, in full; warn of what is no name.

        None stands for what is no image to run.
        """
        found = [_annotated_names(entry) for entry in self._index()]
        _warn_of(self._what, [text for item in found if item for text in item[1]])
        return [item and item[0] for item in found]

    def _choose(self, entries: list[Descriptor]) -> Descriptor:
        tag = self._reference.tag
        names: dict[str, Descriptor] = {}
        for entry in entries:
            annotations = entry.get("annotations")
            name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
            if isinstance(name, str):
                names.setdefault(name, entry)
        if tag and tag.startswith("@"):
            by_digest = {entry["digest"]: entry for entry in entries}
            if tag[1:] in by_digest:
                return by_digest[tag[1:]]
            number = int(tag[1:]) if tag[1:].isdigit() and len(tag) < 6 else -1
            if 0 <= number < len(entries):
                return entries[number]
            raise ManifestError(f"{self._what} has no image number {tag[1:]}")
        if tag and tag in names:
            return names[tag]
        if not tag and len(entries) == 1:
            return entries[0]
        shown = escape(", ".join(sorted(names)))[:300]
        why = f"has no image {tag}" if tag else f"has {len(entries)} images"
        raise ManifestError(
            f"{self._what} {why}", f"name one of: {shown}" if shown else "choose by :@NUMBER"
        )

    def _document(self, descriptor: Descriptor, what: str) -> bytes:
        data = read_document(self._files, _blob(descriptor["digest"]), self._what)
        return manifest.verify(data, descriptor, what)

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Do nothing: `find` has pointed each layer to where it lies."""

    def may_restart(self) -> bool:
        """Tell that files do not change their mind."""
        return False

    def close(self) -> None:
        """Close all files."""
        if not self._keeps_open:
            self._files.close()


def _blob(digest: str) -> str:
    """Return a blob's place in a layout; the digest was checked with its descriptor."""
    return f"blobs/sha256/{digest[7:]}"


def place(layer: LayerBlob, found: tuple[int, int, int] | None, what: str) -> None:
    """Point a layer to where it lies."""
    if found is None:
        raise ManifestError(f"{what} does not have layer {layer.short}")
    layer.fd, layer.offset, size = found
    if size != layer.size:
        raise ManifestError(f"{what}: layer {layer.short} has {size} bytes instead of {layer.size}")


def _entry_files(entry: dict[str, Any], what: str) -> tuple[str, list[str]]:
    """Return the names of config and layers in an entry of manifest.json."""
    config, layers = entry.get("Config"), entry.get("Layers")
    if layers is None:
        layers = []
    if not isinstance(config, str) or not isinstance(layers, list):
        raise ManifestError(f"{what}: manifest.json has no Config or Layers")
    if len(layers) > limits.LAYERS or not all(isinstance(name, str) for name in layers):
        raise ManifestError(f"{what}: manifest.json has bad Layers")
    return config, layers


def _annotated_names(entry: Descriptor) -> tuple[list[str], list[str]] | None:
    """Return the name that an entry of a layout claims, in full, and what is no name, to be shown.

    containerd and Docker write the whole name beside the tag, buildah writes it in place of the
    tag; a bare tag is no name. None stands for provenance and the like.
    """
    annotations = entry.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    platform = entry.get("platform")
    if "vnd.docker.reference.type" in annotations or (
        isinstance(platform, dict) and platform.get("os") == "unknown"
    ):
        return None
    claimed: list[object] = [
        annotations[key] for key in (CONTAINERD_NAME, REF_NAME) if key in annotations
    ]
    names, refused = _names(
        name for name in claimed if not isinstance(name, str) or "/" in name or ":" in name
    )
    return names[:1], refused


def _repo_tags(entry: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names that an archive claims, in full, and what is no name, to be shown."""
    tags = entry.get("RepoTags")
    return _names(tags if isinstance(tags, list) else [tags] if tags else ())


def _names(claimed: Iterable[object]) -> tuple[list[str], list[str]]:
    names, refused = [], []
    for name in claimed:
        reference = None
        if isinstance(name, str):
            with contextlib.suppress(RlessError):
                reference = parse(name)
        if reference is not None and reference.transport == "docker":
            names.append(reference.canonical)
        else:
            refused.append(escape(repr(name))[:60] if isinstance(name, str) else "a value")
    return names, refused


def _warn_of(what: str, refused: list[str]) -> None:
    if refused:
        log.warn(
            f"{what}: {', '.join(refused[:_MOST_SHOWN])[:300]} "
            f"{'is no name' if len(refused) == 1 else 'are no names'} of an image, "
            "and left out: see `rless tag`"
        )
