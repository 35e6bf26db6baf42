"""Attachments: signatures of sigstore that are in the registry, beside the image.

Two forms are read. cosign's own is an image under the tag `sha256-HEX.sig`, of which each layer is
a payload, with the signature in the layer's annotations. The other is the same image without a tag,
found by the referrers of the signed manifest: from the registry's API, or from the index under the
tag `sha256-HEX` where a registry has no API. Only the first is written, for it is what Podman and
skopeo read. registries.d says for which repositories they are used (`use-sigstore-attachments`).

What is not found does no harm: a policy that wants a signature refuses an image without one.

Source: cosign's SIGNATURE_SPEC.md; OCI distribution-spec 1.1, "Listing Referrers", "Backwards
Compatibility".
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rootless import log
from rootless.errors import RlessError
from rootless.image.config import manifest
from rootless.image.model import limits
from rootless.image.model.digest import is_digest, sha256
from rootless.image.registry import upload
from rootless.image.registry.http import finish, read_body
from rootless.image.registry.upload import Blob
from rootless.image.trust.signature import SigstoreSignature
from rootless.image.trust.sigstore import MEDIA_TYPE
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rootless.image.registry.endpoint import Endpoint
    from rootless.oci.image_spec import Descriptor

_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_REFERRERS = 32  # images with signatures that are looked at


def tag_of(digest: str) -> str:
    """Return the tag under which cosign keeps the signatures of a manifest."""
    return f"{digest.replace(':', '-')}.sig"


def read(endpoint: Endpoint, digest: str) -> list[SigstoreSignature]:
    """Return the signatures that a repository has of a manifest.

    Raises:
        RlessError: the registry cannot be asked, or what it has under the tag is malformed.
    """
    found: list[SigstoreSignature] = []
    room = limits.SIGNATURES_BYTES
    for data in _images(endpoint, digest):
        what = f"the signatures of {digest}"
        for layer in _layers(manifest.read_object(data, what), what):
            if layer["mediaType"] != MEDIA_TYPE:
                continue
            room -= layer["size"]
            if len(found) >= limits.SIGNATURES or room < 0:
                raise RlessError(f"{what} are too many or too large")
            url = endpoint.url(f"blobs/{layer['digest']}")
            payload = endpoint.read(url, {}, layer["size"], "signature")
            payload = manifest.verify(payload, layer, f"{what}: payload")
            made = SigstoreSignature(MEDIA_TYPE, payload, layer.get("annotations") or {})
            if made.blob() not in [one.blob() for one in found]:
                found.append(made)
    return found


def _images(endpoint: Endpoint, digest: str) -> Iterator[bytes]:
    """Yield the manifests of images that hold signatures."""
    tagged = _manifest(endpoint, tag_of(digest))
    if tagged is not None:
        yield tagged
    try:
        yield from _referrers(endpoint, digest)
    except RlessError as error:
        log.debug(f"{error.message}; referrers are left out")


def _referrers(endpoint: Endpoint, digest: str) -> Iterator[bytes]:
    """Yield the manifests that name another one as their subject, and hold its signatures."""
    what = f"the referrers of {digest}"
    query = urlencode({"artifactType": _ARTIFACT})
    data = _get(endpoint, f"referrers/{digest}?{query}", spec.OCI_INDEX)
    if data is None:
        data = _get(endpoint, f"manifests/{digest.replace(':', '-')}", spec.OCI_INDEX)
    if data is None:
        return
    index = manifest.parse_index(manifest.read_object(data, what), what)
    # A registry may leave the filter to the client.
    wanted = [one for one in index["manifests"] if _holds_signatures(one)]
    for descriptor in wanted[:_REFERRERS]:
        found = _manifest(endpoint, descriptor["digest"])
        if found is None:
            continue
        manifest.verify(found, descriptor, what)
        subject = manifest.read_object(found, what).get("subject")
        if isinstance(subject, dict) and subject.get("digest") == digest:
            yield found


def _holds_signatures(descriptor: Any) -> bool:
    return bool(
        descriptor.get("artifactType") == _ARTIFACT and descriptor["mediaType"] == spec.OCI_MANIFEST
    )


def _manifest(endpoint: Endpoint, wanted: str) -> bytes | None:
    return _get(endpoint, f"manifests/{wanted}", spec.OCI_MANIFEST)


def _get(endpoint: Endpoint, path: str, accept: str) -> bytes | None:
    """Return a document of a repository; None: it is not there, or the registry has no such API."""
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = endpoint.ask(endpoint.url(path), {"Accept": accept}, deadline)
    if response.status in (400, 404, 405):
        finish(response)
        return None
    endpoint.judge(response, path)
    return read_body(response, limits.JSON_BYTES, deadline, f"{endpoint.name}: {path}")


def _layers(document: dict[str, Any], what: str) -> list[Descriptor]:
    """Return the layers of an image that holds signatures, checked."""
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise manifest.ManifestError(f"{what}: layers is not a list")
    for layer in layers:
        manifest.check_descriptor(layer, what, limits.BLOB_BYTES)
        annotations = layer.get("annotations") or {}
        if not isinstance(annotations, dict) or not all(
            isinstance(value, str) for value in annotations.values()
        ):
            raise manifest.ManifestError(f"{what}: annotations are not strings")
    return layers


# -- writing ---------------------------------------------------------------------------------


def write(endpoint: Endpoint, digest: str, signatures: Sequence[SigstoreSignature]) -> None:
    """Add signatures to those that a repository has of a manifest, under cosign's tag.

    Raises:
        RlessError: refused, or what is there is malformed.
    """
    what = f"the signatures of {digest}"
    document, config = _present(endpoint, digest, what)
    known = [
        (layer["mediaType"], layer["digest"], layer.get("annotations") or {})
        for layer in document["layers"]
    ]
    for signature in signatures:
        layer = _descriptor(signature.mime_type, signature.payload)
        entry = (signature.mime_type, layer["digest"], signature.annotations)
        if entry in known:
            continue
        known.append(entry)
        _send(endpoint, signature.payload, what)
        document["layers"].append({**layer, "annotations": signature.annotations})
        config["rootfs"]["diff_ids"].append(layer["digest"])
    data = json.dumps(config, separators=(",", ":")).encode()
    _send(endpoint, data, what)
    document["config"] = _descriptor(spec.OCI_CONFIG, data)
    data = json.dumps(document, separators=(",", ":")).encode()
    upload.put_manifest(endpoint, tag_of(digest), data, spec.OCI_MANIFEST, what)


def _present(endpoint: Endpoint, digest: str, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and config that hold the signatures so far, new ones if none do."""
    data = _manifest(endpoint, tag_of(digest))
    if data is None:
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "layers": [],
        }
        config: dict[str, Any] = {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
        return document, config
    document = manifest.read_object(data, what)
    if len(_layers(document, what)) >= limits.LAYERS:
        raise RlessError(f"{what} are too many")
    described = manifest.check_descriptor(document.get("config"), what, limits.JSON_BYTES)
    url = endpoint.url(f"blobs/{described['digest']}")
    config_data = manifest.verify(
        endpoint.read(url, {}, described["size"], "config"), described, what
    )
    config = manifest.read_object(config_data, what)
    rootfs = config.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    if not isinstance(rootfs, dict) or not isinstance(rootfs.get("diff_ids"), list):
        raise manifest.ManifestError(f"{what}: the config is malformed")
    if not all(is_digest(one) for one in rootfs["diff_ids"]):
        raise manifest.ManifestError(f"{what}: the config is malformed")
    return document, config


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": sha256(data), "size": len(data)}


def _send(endpoint: Endpoint, data: bytes, what: str) -> None:
    digest = sha256(data)
    if not upload.exists(endpoint, digest):
        blob = Blob(digest, len(data), lambda offset, count: data[offset : offset + count])
        upload.upload(endpoint, blob, what)
