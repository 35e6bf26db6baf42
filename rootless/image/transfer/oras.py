"""SIF files in a registry: one is the only layer of an artifact, as ORAS and Apptainer store it.

Source: oras.land/docs; apptainer pkg/client/oras; OCI image-spec, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, cast

from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.layer.layers import LayerBlob
from rootless.image.model import limits
from rootless.image.model.digest import sha256
from rootless.image.model.source import Found
from rootless.image.registry import upload
from rootless.image.registry.client import Registry
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.model.reference import Reference
    from rootless.image.registry.endpoint import Endpoint
    from rootless.image.registry.progress import Progress
    from rootless.oci.image_spec import Descriptor

_CONFIG = "application/vnd.sylabs.sif.config.v1"
_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
_LAYERS = (_LAYER, "appliciation/vnd.sylabs.sif.layer.tar")  # the latter, with its slip, of old
_CONFIGS = (
    *(_CONFIG, f"{_CONFIG}+json", spec.OCI_CONFIG),
    *("application/vnd.oci.empty.v1+json", "application/vnd.unknown.config.v1+json"),
)
_TITLE = "org.opencontainers.image.title"
_NOTHING = b"{}"


class FileRegistry(Registry):
    """Pulls files: what it finds has one layer, which is the file, and no config."""

    def find(self, asked: PlatformRequest, kinds: Sequence[str] = _CONFIGS) -> Found:
        """Return where the file is.

        Raises:
            RlessError: the name means something else, or nothing.
        """
        return super().find(asked, kinds)

    def _find(self, endpoint: Endpoint, asked: PlatformRequest, kinds: Sequence[str]) -> Found:
        digests, data, content = self._resolve(endpoint, asked, kinds)
        layers = content["layers"]
        if len(layers) != 1 or layers[0]["mediaType"] not in _LAYERS:
            raise manifest.ManifestError(
                f"{self._what} is no SIF file", "an image is pulled by docker://"
            )
        digest = layers[0]["digest"]
        return Found(
            manifest=data,
            digests=digests,
            config_data=b"",
            config=cast("Any", {}),
            image_id=digest,
            layers=[LayerBlob(digest, layers[0]["size"], digest, digest)],
        )


def push(path: str, destination: Reference, progress: Progress) -> Descriptor:
    """Send a SIF file to where `destination` says; return the descriptor of its manifest.

    Raises:
        RlessError: it cannot be read, refused, unreachable.
    """
    from rootless.image.transfer.push import endpoint_of

    what = escape(destination.familiar)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RlessError(f"cannot open {escape(path)}: {error.strerror}") from error
    try:
        with endpoint_of(destination) as endpoint:
            config = upload.Blob(
                sha256(_NOTHING),
                len(_NOTHING),
                lambda offset, count: _NOTHING[offset : offset + count],
            )
            digest, size = _measure(fd)
            short = digest[7:19]
            blob = upload.Blob(
                digest,
                size,
                lambda offset, count: os.pread(fd, count, offset),
                lambda done: progress.advance(short, done),
            )
            for one in (config, blob):
                if not upload.exists(endpoint, one.digest):
                    progress.state(one.digest[7:19], "Pushing", one.size)
                    upload.upload(endpoint, one, what)
            layer = {"mediaType": _LAYER, "digest": digest, "size": size}
            document = {
                "schemaVersion": 2,
                "mediaType": spec.OCI_MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": config.digest, "size": config.size},
                "layers": [{**layer, "annotations": {_TITLE: os.path.basename(path)}}],
            }
            data = json.dumps(document, separators=(",", ":")).encode()
            tag = destination.tag or "latest"
            upload.put_manifest(endpoint, tag, data, spec.OCI_MANIFEST, what)
    finally:
        os.close(fd)
    return {"mediaType": spec.OCI_MANIFEST, "digest": sha256(data), "size": len(data)}


def _measure(fd: int) -> tuple[str, int]:
    """Return digest and size of a file."""
    hasher, size = hashlib.sha256(), 0
    while chunk := os.pread(fd, limits.CHUNK, size):
        hasher.update(chunk)
        size += len(chunk)
    return f"sha256:{hasher.hexdigest()}", size
