"""Make images locally: of a tar archive of files (import), or of a container's changes.

They go into the store like every other image, by `install`: unpacked by the same code, with
the same checks, recorded last.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.config.dockerfile_changes import apply
from rootless.image.layer.decompress import BlobStream
from rootless.image.layer.layers import LayerBlob
from rootless.image.model import limits
from rootless.image.model.digest import chain_ids, sha256
from rootless.image.model.platforms import parse_platform
from rootless.image.model.reference import parse_name
from rootless.image.model.source import Found
from rootless.image.store import records
from rootless.image.store.staging import Staging, clear_leftovers
from rootless.image.transfer.install import install
from rootless.image.transfer.load import READS, open_stream, store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.registry.progress import Progress
    from rootless.image.store.store import Image, Store
    from rootless.image.transfer.install import MapFor
    from rootless.oci.image_spec import ImageConfig


class ImportedImage:
    """The source of an image that is made locally.

    Args:
        config: the image config; its rootfs.diff_ids name all layers.
        layers: of the last diff_ids, those that the store may lack: (descriptor, bytes, diff_id).
    """

    def __init__(self, config: dict[str, Any], layers: Sequence[tuple[int, int, str]]) -> None:
        self._data = json.dumps(config, separators=(",", ":")).encode()
        self._layers = {diff_id: (fd, size) for fd, size, diff_id in layers}

    def find(self, wanted: PlatformRequest) -> Found:
        """Return the documents, checked as those of any other image."""
        ids = json.loads(self._data)["rootfs"]["diff_ids"]
        config: ImageConfig = manifest.parse_config(self._data, "image config", len(ids))
        layers = []
        for diff_id, chain in zip(ids, chain_ids(ids), strict=True):
            fd, size = self._layers.get(diff_id, (-1, 0))
            layer = LayerBlob(None, size, diff_id, chain)
            layer.fd = fd
            layers.append(layer)
        return Found(
            manifest=b"",
            digests=[],
            config_data=self._data,
            config=config,
            image_id=sha256(self._data),
            layers=layers,
        )

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Fail: a layer of the base image has vanished."""
        raise RlessError(f"layer {layers[0].short} is no longer in the store")

    def may_restart(self) -> bool:
        """Tell that the layers are there."""
        return False

    def close(self) -> None:
        """Do nothing: whoever opened the layers closes them."""


def import_tar(
    path: str,
    store: Store,
    *,
    name: str | None = None,
    instructions: Sequence[str] = (),
    message: str | None = None,
    platform: str | None = None,
    idmap_for: MapFor,
    progress: Progress,
) -> Image:
    """Make an image of one layer of a tar archive, compressed or not.

    Args:
        path: of a file, an http(s) URL, or "-": standard input.
        name: REPOSITORY[:TAG]; None: the image has no name.
        instructions: of a Dockerfile, that change the config.
        message: the comment of its history.

    Raises:
        RlessError: the archive cannot be read, is broken or hostile; an instruction is wrong.

    Where it runs: on the host; the caller must have no second thread.
    """
    reference = parse_name(name) if name else None
    wanted = parse_platform(platform)
    container = apply({}, instructions)
    records.make_frame(store.root)
    clear_leftovers(store.root)
    with Staging(store.root) as staging:
        fd = _open(path, staging.path, progress)
        try:
            size = os.fstat(fd).st_size
            what = escape("standard input" if path == "-" else path)
            diff_id = _digest(fd, size, what, progress)
            created = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
            config: dict[str, Any] = {
                "created": created,
                "architecture": wanted.architecture,
                **({"variant": wanted.variant} if wanted.variant else {}),
                "os": wanted.os,
                "config": container,
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
                "history": [{"created": created, "comment": message or f"Imported from {what}"}],
            }
            return install(
                store,
                ImportedImage(config, [(fd, size, diff_id)]),
                wanted,
                [reference] if reference else None,
                idmap_for=idmap_for,
                progress=progress,
                scratch=staging.path,
            )
        finally:
            os.close(fd)


def _open(path: str, scratch: str, progress: Progress) -> int:
    if path.startswith(("http://", "https://")):
        return _download(path, scratch, progress)
    return open_stream(None if path == "-" else path, scratch, progress)


def _download(url: str, scratch: str, progress: Progress) -> int:
    """Store what a URL gives in a file without a name; return that."""
    import time

    from rootless.image.registry import http

    what = escape(url.partition("?")[0])
    deadline = time.monotonic() + limits.transfer_seconds(limits.GIB)
    client = http.Client(http.insecure_registries())
    try:
        response = client.get(url, {}, deadline=deadline)
        if response.status != 200:
            response.close()
            raise RlessError(f"{what}: the server answers {response.status}", exit_code=1)
        body = http.stream_body(response, deadline, what)
        return store(progress.through(what, READS, body), scratch, what)
    finally:
        client.close()


def _digest(fd: int, size: int, what: str, progress: Progress) -> str:
    """Return the digest of the plain archive; it is unpacked by a second reading."""
    stream = BlobStream(fd, 0, size, what)
    total = 0
    for chunk in progress.through(what, READS, stream):
        total += len(chunk)
        if total > limits.LAYER_BYTES:
            raise RlessError(f"{what} unpacks to more than {limits.LAYER_BYTES} bytes")
    return stream.diff_id
