"""Push: send an image of the store to a registry, uploading only what it lacks.

The layers of the store are unpacked. If the registry has, or can mount, the compressed layer that
the manifest of the pull names, that one is used, so pushing what was pulled uploads nothing and
gives the same manifest. Otherwise the layer's tar is written again byte for byte and compressed,
and the manifest names the new blob. The config never changes, so neither does the image's id.

The manifest is sent last: an image that can be found is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol, cast

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.config.index import index_document, platform_of
from rootless.image.layer.compress import LEVELS, MEDIA_TYPES, compressed
from rootless.image.layer.tarsplit import diff_ids, open_layer
from rootless.image.model import limits, registries_conf
from rootless.image.model.digest import is_digest, sha256
from rootless.image.model.packing import Packing
from rootless.image.model.reference import parse
from rootless.image.registry import http, upload
from rootless.image.registry.endpoint import Endpoint
from rootless.image.registry.http import Client
from rootless.image.registry.parallel import at_once
from rootless.image.registry.upload import Blob
from rootless.image.store import records
from rootless.image.transfer.packed import Packed
from rootless.image.trust import collect
from rootless.image.trust.identity import parse_named
from rootless.linux.files import open_tmpfile
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from rootless.image.model.reference import Reference
    from rootless.image.registry.progress import Progress
    from rootless.image.store.store import Image, Store
    from rootless.image.trust.identity import Named
    from rootless.image.trust.signature import Signer, SigstoreSignature, SimpleSignature
    from rootless.oci.image_spec import Descriptor

_MOUNTS = 3  # repositories that are tried for one layer
_TO_OCI = {
    spec.DOCKER_LAYER_GZIP: spec.OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": spec.OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": spec.OCI_LAYER_ZSTD,
}


class LayerStream(Protocol):
    """The tar of one layer, to be read once."""

    def read(self, size: int = ...) -> bytes:
        """Return up to `size` bytes, b"" at the end."""

    def __enter__(self) -> LayerStream:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""


class _Layer:
    """One layer while it is pushed.

    Attributes:
        descriptor: of the blob that the registry has or gets; None until it is known.
        index: 0 is the bottom one.
    """

    def __init__(self, index: int, diff_id: str, descriptor: Descriptor | None) -> None:
        self.index = index
        self.diff_id = diff_id
        self.original = descriptor
        self.descriptor: Descriptor | None = None

    @property
    def short(self) -> str:
        return self.diff_id[7:19]


def push(
    image: Image,
    destination: Reference,
    store: Store,
    scratch: str,
    progress: Progress,
    *,
    packing: Packing | None = None,
    signers: Sequence[Signer] = (),
    remove_signatures: bool = False,
) -> Descriptor:
    """Send an image to where `destination` says; return the descriptor of its manifest.

    Args:
        scratch: a directory of the store for compressed layers.
        packing: None: each layer has the compression that it came with, gzip otherwise.
        signers: each makes a signature. If one cannot, the manifest is not sent.
        remove_signatures: those that were seen when the image was pulled are left out. Otherwise
            they are sent along if the manifest is still the one that they are for.

    Raises:
        RlessError: refused, unreachable, or the store lacks what the image is made of.

    Where it runs: on the host; the caller must have no second thread (layers are read by
    processes in a user namespace).
    """
    with endpoint_of(destination) as endpoint:
        packing = packing or Packing()
        work = _Push(image, destination, store, endpoint, progress, packing, scratch)
        return work.run(signers, keep=not remove_signatures)


def push_index(
    images: Sequence[Image],
    destination: Reference,
    store: Store,
    scratch: str,
    progress: Progress,
    packing: Packing,
) -> Descriptor:
    """Send images for several platforms, and an index of them; return the index's descriptor.

    The manifests have no tag of their own. The index comes last.

    Raises:
        RlessError: as of `push`.
    """
    with endpoint_of(destination) as endpoint:
        made: list[dict[str, Any]] = []
        for image in images:
            work = _Push(image, destination, store, endpoint, progress, packing, scratch)
            made.append({**work.run((), keep=True, tagged=False), "platform": platform_of(image)})
        document = index_document(made, packing)
        data, kind = json.dumps(document, separators=(",", ":")).encode(), document["mediaType"]
        what = escape(destination.familiar)
        upload.put_manifest(endpoint, destination.tag or "latest", data, kind, what)
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}


@contextlib.contextmanager
def endpoint_of(destination: Reference) -> Iterator[Endpoint]:
    """Give where to push to, for a `with` block.

    Raises:
        RlessError: it is no repository of a registry.
    """
    if destination.transport != "docker" or destination.digest:
        raise RlessError(
            f"cannot push to {escape(destination.text)}",
            "name a repository and a tag, as HOST/NAME:TAG; 'rless save' writes archives",
        )
    client = Client(http.insecure_registries())
    try:
        location = registries_conf.load().own(destination)
        yield Endpoint(client, location, escape(destination.familiar), "pull,push")
    finally:
        client.close()


class _Push:
    def __init__(
        self,
        image: Image,
        destination: Reference,
        store: Store,
        endpoint: Endpoint,
        progress: Progress,
        packing: Packing,
        scratch: str,
    ) -> None:
        self._image = image
        self._destination = destination
        self._store = store
        self._endpoint = endpoint
        self._progress = progress
        self._packing = packing
        self._scratch = scratch
        self._packed = Packed(store.root)
        self._what = escape(destination.familiar)
        self._stop = threading.Event()
        self._config = records.get_blob(image.root, image.id) or b""
        self._manifest = _recorded_manifest(image)

    def run(self, signers: Sequence[Signer], *, keep: bool, tagged: bool = True) -> Descriptor:
        originals = self._manifest["layers"] if self._manifest else None
        layers = [
            _Layer(index, diff_id, originals[index] if originals else None)
            for index, diff_id in enumerate(diff_ids(self._image))
        ]
        # First, because it is small and shows whether this user may push at all.
        self._send_config()
        for layer in layers:
            self._progress.state(layer.short, "Preparing")
        unique = list({layer.diff_id: layer for layer in layers}.values())
        rows = [(layer,) for layer in unique]
        at_once(self._find, rows, limits.CONCURRENT_UPLOADS, self._stop)
        self._upload([layer for layer in unique if layer.descriptor is None])
        made = {layer.diff_id: layer.descriptor for layer in unique}
        data, kind = self._document([cast("Descriptor", made[one.diff_id]) for one in layers])
        digest = sha256(data)
        tag = (self._destination.tag or "latest") if tagged else digest
        named = parse_named(self._destination.canonical)
        new = [sign(digest, named) for sign in signers]
        collect.check_places(named, new)
        upload.put_manifest(self._endpoint, tag, data, kind, self._what)
        kept = records.get_signatures(self._image.root, digest) if keep else []
        self._store_signatures(named, digest, kept, new)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def _store_signatures(
        self,
        named: Named,
        digest: str,
        kept: Sequence[bytes],
        new: Sequence[SimpleSignature | SigstoreSignature],
    ) -> None:
        """Store those that the image came with, which may fail, and those that are new."""
        try:
            old = collect.stored(kept)
            where = collect.store(self._endpoint, named, digest, [*old, *new])
        except RlessError as error:
            if not kept:
                raise
            self._progress.say(f"Signatures that the image came with are left out: {error}")
            old = []
            where = collect.store(self._endpoint, named, digest, new)
        if old or new:
            self._progress.say(f"Signatures: {len(old) + len(new)}, in {escape(where)}")

    def _go_on(self, layer: _Layer, done: int) -> None:
        """Report how far a layer is; end its thread if another one has failed."""
        if self._stop.is_set():
            raise RlessError(f"{self._what}: layer {layer.short}: given up")
        self._progress.advance(layer.short, done)

    # -- layers ------------------------------------------------------------------------------

    def _find(self, layer: _Layer) -> None:
        """Take a blob that the registry has: the original, or what a push has made of the layer."""
        self._find_original(layer)
        if layer.descriptor is None:
            compression = self._compression(layer)
            known = self._packed.find(layer.diff_id, compression, self._packing.level)
            if known and upload.exists(self._endpoint, known[0]):
                layer.descriptor = _descriptor(compression, *known)
                self._progress.state(layer.short, "Layer already exists")

    def _find_original(self, layer: _Layer) -> None:
        """Take the layer's original blob if the registry has it, here or in another repository."""
        original = layer.original
        if original is None or not self._may_keep(original):
            return
        digest = original["digest"]
        if original["mediaType"] == spec.DOCKER_LAYER_FOREIGN or "nondist" in original["mediaType"]:
            layer.descriptor = original
            self._progress.state(layer.short, "Skipped foreign layer")
        elif upload.exists(self._endpoint, digest):
            layer.descriptor = original
            self._progress.state(layer.short, "Layer already exists")
        else:
            for repository in self._neighbours(digest):
                self._endpoint.allow(repository)
                if upload.mount(self._endpoint, digest, repository):
                    layer.descriptor = original
                    self._progress.state(layer.short, f"Mounted from {repository}")
                    break

    def _compression(self, layer: _Layer) -> str:
        """Return how a layer is compressed where that has to be done."""
        if self._packing.compression is not None:
            return self._packing.compression
        found = _compression_of(layer.original)
        return found if found in LEVELS else "gzip"

    def _may_keep(self, descriptor: Descriptor) -> bool:
        kind = _compression_of(descriptor)
        wanted = self._packing.compression
        return wanted is None or kind in (wanted or "none", "foreign")

    def _neighbours(self, digest: str) -> list[str]:
        """Return repositories of this registry from which the store has pulled a blob."""
        found: list[str] = []
        for record in self._store.records("names"):
            try:
                other = parse(record["name"])
            except RlessError:
                continue
            if other.transport != "docker" or other.registry != self._destination.registry:
                continue
            same = other.repository == self._destination.repository
            if same or other.repository in found or not is_digest(record["digest"]):
                continue
            if digest.encode() in (records.get_blob(self._store.root, record["digest"]) or b""):
                found.append(other.repository)
        return found[:_MOUNTS]

    def _upload(self, layers: Sequence[_Layer]) -> None:
        """Compress and send layers, several at a time.

        The processes that read them are started between the rounds, when there is no thread.
        """
        for layer in layers:
            self._progress.state(layer.short, "Waiting")
        size = max(1, limits.CONCURRENT_UPLOADS)
        for start in range(0, len(layers), size):
            some = layers[start : start + size]
            with contextlib.ExitStack() as stack:
                streams: list[LayerStream] = [
                    stack.enter_context(open_layer(self._store, self._image, layer.index))
                    for layer in some
                ]
                rows = zip(some, streams, strict=True)
                at_once(self._send, rows, limits.CONCURRENT_UPLOADS, self._stop)

    def _send(self, layer: _Layer, stream: LayerStream) -> None:
        compression = self._compression(layer)
        self._progress.state(layer.short, "Compressing")
        fd = open_tmpfile(self._scratch)
        try:
            digest, size = self._compress(layer, stream, compression, fd)
            if not upload.exists(self._endpoint, digest):
                self._progress.state(layer.short, "Pushing", size)
                blob = Blob(
                    digest,
                    size,
                    lambda offset, count: os.pread(fd, count, offset),
                    lambda done: self._go_on(layer, done),
                )
                upload.upload(self._endpoint, blob, f"{self._what}: layer {layer.short}")
                self._progress.state(layer.short, "Pushed")
            else:
                self._progress.state(layer.short, "Layer already exists")
        finally:
            os.close(fd)
        self._packed.note(layer.diff_id, compression, self._packing.level, digest, size)
        layer.descriptor = _descriptor(compression, digest, size)

    def _compress(
        self, layer: _Layer, stream: LayerStream, compression: str, fd: int
    ) -> tuple[str, int]:
        """Write a layer compressed into a file; return digest and size.

        The same tar gives the same blob each time, so that a second push finds the first one's.
        """
        hasher = hashlib.sha256()
        size = 0
        try:
            chunks = iter(lambda: stream.read(limits.CHUNK), b"")
            for chunk in compressed(chunks, compression, self._packing.level):
                self._go_on(layer, 0)
                hasher.update(chunk)
                size += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
        except OSError as error:
            raise RlessError(
                f"layer {layer.short} cannot be stored: {error.strerror}", limits.hint(error.errno)
            ) from error
        return f"sha256:{hasher.hexdigest()}", size

    # -- documents ---------------------------------------------------------------------------

    def _send_config(self) -> None:
        data, digest = self._config, self._image.id
        if upload.exists(self._endpoint, digest):
            return
        blob = Blob(digest, len(data), lambda offset, count: data[offset : offset + count])
        upload.upload(self._endpoint, blob, f"{self._what}: image config")

    def _document(self, layers: Sequence[Descriptor]) -> tuple[bytes, str]:
        """Return the manifest and its media type: the recorded one if all its layers stand."""
        recorded, packing = self._manifest, self._packing
        stands = not packing.docker and not packing.annotations
        if stands and recorded is not None and list(layers) == recorded["layers"]:
            data = cast("bytes", records.get_blob(self._image.root, self._image.digest))
            what = f"manifest of {self._image.id[7:19]}"
            return data, manifest.media_type(manifest.read_object(data, what), "", what)
        old = dict(recorded) if recorded is not None else {}
        config = {
            "mediaType": spec.OCI_CONFIG,
            "digest": self._image.id,
            "size": len(self._config),
        }
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "config": config,
            "layers": [
                {**layer, "mediaType": _TO_OCI.get(layer["mediaType"], layer["mediaType"])}
                for layer in layers
            ],
        }
        annotations = {**(old.get("annotations") or {}), **packing.annotations}
        if annotations:
            document["annotations"] = annotations
        kind, fits = spec.OCI_MANIFEST, all(map(_fits_docker, layers))
        if packing.docker and not fits:
            raise RlessError(f"{self._what}: Docker's media types know gzip only", None, 1)
        is_docker = old.get("mediaType") == spec.DOCKER_MANIFEST and not packing.annotations
        if packing.docker or (is_docker and fits):
            # As it came, so that tools which know nothing else still read it.
            kind = document["mediaType"] = spec.DOCKER_MANIFEST
            config["mediaType"] = spec.DOCKER_CONFIG
            for layer in document["layers"]:
                layer["mediaType"] = spec.DOCKER_LAYER_GZIP
        return json.dumps(document, separators=(",", ":")).encode(), kind


def _recorded_manifest(image: Image) -> dict[str, Any] | None:
    """Return the manifest that the image came with, None if it came without."""
    data = records.get_blob(image.root, image.digest) if is_digest(image.digest) else None
    if data is None:
        return None
    what = f"manifest of {image.id[7:19]}"
    try:
        found = manifest.parse_manifest(manifest.read_object(data, what), what)
    except manifest.ManifestError as error:
        log.debug(f"{error.message}: made anew")
        return None
    fits = found["config"]["digest"] == image.id and len(found["layers"]) == len(image.chain)
    return cast("dict[str, Any]", found) if fits else None


def _descriptor(compression: str, digest: str, size: int) -> Descriptor:
    return {"mediaType": MEDIA_TYPES[compression], "digest": digest, "size": size}


def _compression_of(descriptor: Descriptor | None) -> str:
    """Return "gzip", "zstd", "none" or "foreign" by a layer's media type; "" if it has none."""
    if descriptor is None:
        return ""
    kind = descriptor["mediaType"]
    if "foreign" in kind or "nondistributable" in kind:
        return "foreign"
    if kind.endswith("gzip"):
        return "gzip"
    return "zstd" if kind.endswith("zstd") else "none"


def _fits_docker(descriptor: Descriptor) -> bool:
    return _compression_of(descriptor) == "gzip"


def tags_of(store: Store, name: str) -> list[str]:
    """Return the names of all tags that the store has of a repository.

    Raises:
        RlessError: it has none, or a tag was given.
    """
    reference = parse(name)
    typed = reference.text.removeprefix("docker://")
    if reference.transport != "docker" or reference.digest or typed.endswith(f":{reference.tag}"):
        raise RlessError("tag can't be used with --all-tags/-a", "name the repository only")
    candidates = registries_conf.load().candidates(reference)
    wanted = [f"{one.registry}/{one.repository}:" for one in (reference, *candidates)]
    for prefix in wanted:
        found = [
            str(record["name"])
            for record in store.records("names")
            if record["name"].startswith(prefix) and "@" not in record["name"]
        ]
        if found:
            return sorted(set(found))
    raise RlessError(
        f"An image does not exist locally with the tag: {escape(reference.familiar)}",
        "'rless images' lists them",
    )
