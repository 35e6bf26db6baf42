"""Check manifests, indexes and image configs, once, where they come in.

All input is hostile JSON. Only `read_json` turns it into objects, and reports every way in which
Python can fail there in one line. The functions after it check the types of what rless uses, and
refuse combinations that let two tools see two different images in one document (CVE-2021-41190).
Checked documents have the types of `rootless.oci.image_spec`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.model.digest import is_digest, sha256
from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.image.model.platforms import PlatformRequest
    from rootless.oci.image_spec import Descriptor, ImageConfig, Index, Manifest

    Fetch = Callable[[Descriptor, str], bytes]


class ManifestError(RlessError):
    """A document is broken, hostile or of an unknown kind."""


class PlatformError(ManifestError):
    """The image is for another platform."""


def read_json(data: bytes, what: str) -> Any:
    """Return the value of a JSON document from outside.

    Raises:
        ManifestError: too large, too deep, not UTF-8, a number that is none, or no JSON.
    """
    if len(data) > limits.JSON_BYTES:
        raise ManifestError(f"{what} is larger than {limits.JSON_BYTES} bytes")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise ManifestError(f"{what} is not UTF-8") from None
    except RecursionError:
        raise ManifestError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ManifestError(f"{what} is not valid JSON: {escape(str(error))[:120]}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON document that must be an object."""
    value = read_json(data, what)
    if not isinstance(value, dict):
        raise ManifestError(f"{what} is not a JSON object")
    return value


def media_type(document: dict[str, Any], declared: str, what: str) -> str:
    """Return the kind of a manifest or index: what was declared, confirmed by its body.

    Args:
        declared: of the descriptor or the Content-Type; "" or a general type if unknown.

    Raises:
        ManifestError: body and declaration disagree, or the body is two kinds at once.
    """
    if document.get("schemaVersion") == 1 or declared in spec.SCHEMA_1:
        raise ManifestError(
            f"{what} is of schema 1, which is obsolete and not verifiable",
            "push the image anew with a current tool",
        )
    own = document.get("mediaType", "")
    if not isinstance(own, str):
        raise ManifestError(f"{what}: mediaType is not a string")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document or "fsLayers" in document):
        raise ManifestError(f"{what} is a manifest and an index in one")
    known = (*spec.INDEXES, *spec.MANIFESTS)
    if declared in known and own and own != declared:
        raise ManifestError(
            f"{what} says that it is {escape(own)[:100]}, but was announced as {declared}"
        )
    kind = declared if declared in known else own
    if kind not in known:
        if own or (declared and declared.startswith("application/vnd.")):
            raise ManifestError(f"{what} is of an unknown type: {escape(own or declared)[:100]}")
        kind = spec.OCI_INDEX if is_index else spec.OCI_MANIFEST
    if (kind in spec.INDEXES) != is_index:
        raise ManifestError(f"{what} does not have the fields of its type {kind}")
    return kind


def check_descriptor(value: object, what: str, most: int) -> Descriptor:
    """Return `value` if it is a descriptor of a blob of at most `most` bytes.

    `urls` is never looked at: fetching it would let an image send requests to any address.
    """
    if not isinstance(value, dict):
        raise ManifestError(f"{what} is not a descriptor")
    digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType")
    if not is_digest(digest):
        raise ManifestError(
            f"{what} has a bad digest: {escape(str(digest))[:100]}",
            "only sha256 and 64 lower-case hexadecimal digits are taken",
        )
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestError(f"{what} has a bad size")
    if size > most:
        raise ManifestError(f"{what} has {size} bytes; the limit is {most}")
    if not isinstance(kind, str):
        raise ManifestError(f"{what} has no media type")
    return cast("Descriptor", value)


def parse_index(document: dict[str, Any], what: str) -> Index:
    """Return `document` if it is an index of reasonable size."""
    children = document.get("manifests")
    if not isinstance(children, list):
        raise ManifestError(f"{what}: manifests is not a list")
    if len(children) > limits.INDEX_CHILDREN:
        raise ManifestError(f"{what} lists {len(children)} manifests")
    for number, child in enumerate(children):
        check_descriptor(child, f"{what}, manifest {number}", limits.JSON_BYTES)
    return cast("Index", document)


IMAGES = (spec.OCI_CONFIG, spec.DOCKER_CONFIG)


def parse_manifest(document: dict[str, Any], what: str, kinds: Sequence[str] = IMAGES) -> Manifest:
    """Return `document` if it is the manifest of an image.

    Args:
        kinds: media types of its config that are taken.
    """
    kind = check_descriptor(document.get("config"), f"{what}, config", limits.JSON_BYTES)[
        "mediaType"
    ]
    if kind not in kinds:
        raise ManifestError(f"{what} is no container image but an artifact: {escape(kind)[:100]}")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ManifestError(f"{what}: layers is not a list")
    if len(layers) > limits.LAYERS:
        raise ManifestError(f"{what} has {len(layers)} layers; the limit is {limits.LAYERS}")
    for number, layer in enumerate(layers):
        descriptor = check_descriptor(layer, f"{what}, layer {number}", limits.BLOB_BYTES)
        if "encrypted" in descriptor["mediaType"]:
            raise ManifestError(f"{what}, layer {number} is encrypted, which is not supported")
    return cast("Manifest", document)


def choose(index: Index, asked: PlatformRequest, what: str) -> Descriptor:
    """Return the entry of an index that fits the platform best.

    Raises:
        ManifestError: none fits; the hint lists them.
    """
    best: Descriptor | None = None
    best_rank = 0
    offered = []
    for child in index["manifests"]:
        platform = child.get("platform")
        if platform is None and len(index["manifests"]) == 1:
            return child
        if not isinstance(platform, dict):
            continue
        names = [_word(platform.get(key), what) for key in ("os", "architecture", "variant")]
        if "unknown" in names:
            continue  # attestations
        offered.append("/".join(name for name in names if name))
        rank = asked.rank(*names)
        if rank is not None and (best is None or rank < best_rank):
            best, best_rank = child, rank
    if best is None:
        there = escape(", ".join(dict.fromkeys(offered)))[:300]
        raise PlatformError(
            f"{what} is not there for {asked}",
            f"use --platform with one of: {there}" if there else None,
        )
    return best


def _word(value: object, what: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{what}: a platform is not made of strings")
    return value or ""


def resolve(
    data: bytes,
    declared: str,
    asked: PlatformRequest,
    fetch: Fetch,
    what: str,
    kinds: Sequence[str] = IMAGES,
) -> tuple[bytes, Manifest]:
    """Follow indexes from a first document to the manifest for one platform.

    Args:
        data, declared: the document and the media type that came with it.
        fetch: gets a child by descriptor, verified, and how errors name it.
        kinds: media types of configs that are taken.

    Returns:
        The manifest's bytes and content.
    """
    depth = 0
    while True:
        document = read_object(data, what)
        kind = media_type(document, declared, what)
        if kind in spec.MANIFESTS:
            return data, parse_manifest(document, what, kinds)
        depth += 1
        if depth > limits.INDEX_DEPTH:
            raise ManifestError(f"{what}: indexes are nested too deeply")
        child = choose(parse_index(document, what), asked, what)
        data, declared = fetch(child, what), child["mediaType"]


def verify(data: bytes, descriptor: Descriptor, what: str) -> bytes:
    """Return `data` if it is what the descriptor names."""
    if len(data) != descriptor["size"]:
        raise ManifestError(f"{what} has {len(data)} bytes instead of {descriptor['size']}")
    if sha256(data) != descriptor["digest"]:
        raise ManifestError(f"{what} does not have the digest {descriptor['digest']}")
    return data


# -- the image config ------------------------------------------------------------------------

_STRINGS = ("User", "WorkingDir", "StopSignal", "Hostname", "Domainname")
_LISTS = ("Env", "Entrypoint", "Cmd", "Shell", "OnBuild")
_SETS = ("Volumes", "ExposedPorts")


def parse_config(data: bytes, what: str, layers: int | None = None) -> ImageConfig:
    """Return the image config in `data`, checked and with Docker's loose spellings made strict.

    Args:
        layers: how many layers the manifest has; None if there is no manifest.
    """
    document = read_object(data, what)
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or not isinstance(rootfs.get("diff_ids"), list | None):
        raise ManifestError(f"{what} has no list of layers")
    diff_ids = rootfs.get("diff_ids") or []
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise ManifestError(f"{what} has a bad diff_id: {escape(str(diff_id))[:100]}")
    if len(diff_ids) > limits.LAYERS:
        raise ManifestError(f"{what} has {len(diff_ids)} layers; the limit is {limits.LAYERS}")
    if layers is not None and len(diff_ids) != layers:
        raise ManifestError(f"{what} has {len(diff_ids)} layers, its manifest {layers}")
    rootfs["diff_ids"] = diff_ids
    for key in ("os", "architecture", "variant", "created", "author"):
        if not isinstance(document.get(key, ""), str | None):
            raise ManifestError(f"{what}: {key} is not a string")
    history = document.get("history")
    if history is not None and not (
        isinstance(history, list) and all(isinstance(entry, dict) for entry in history)
    ):
        raise ManifestError(f"{what}: history is not a list of objects")
    config = document.get("config")
    if config is None:
        config = document["config"] = {}
    if not isinstance(config, dict):
        raise ManifestError(f"{what}: config is not an object")
    check_container_config(config, what)
    return cast("ImageConfig", document)


def check_container_config(config: dict[str, Any], what: str) -> None:
    """Check the "config" object of an image config, and make Docker's loose spellings strict.

    Raises:
        ManifestError: of a wrong type, or text that no process could be given.
    """
    for key in _STRINGS:
        value = config.get(key)
        if value is None:
            config.pop(key, None)
        else:
            _check_text(value, f"{what}: {key}")
    for key in _LISTS:
        value = config.get(key)
        if isinstance(value, str):
            value = config[key] = [value]  # as Docker reads it
        if value is None:
            continue
        if not isinstance(value, list):
            raise ManifestError(f"{what}: {key} is not a list")
        for item in value:
            _check_text(item, f"{what}: {key}")
    for item in config.get("Env") or ():
        if not item.partition("=")[0]:
            raise ManifestError(f"{what}: Env has an entry without a name")
    for key in _SETS:
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise ManifestError(f"{what}: {key} is not an object")
        for item in value:
            _check_text(item, f"{what}: {key}")
    labels = config.get("Labels")
    if labels is not None:
        if not isinstance(labels, dict):
            raise ManifestError(f"{what}: Labels is not an object")
        for key, value in labels.items():
            _check_text(key, f"{what}: Labels")
            _check_text(value, f"{what}: Labels")
    timeout = config.get("StopTimeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int)):
        raise ManifestError(f"{what}: StopTimeout is not a number")
    _check_health(config.get("Healthcheck"), what)


def _check_health(value: object, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ManifestError(f"{what}: Healthcheck is not an object")
    test = value.get("Test")
    if test is not None and not isinstance(test, list):
        raise ManifestError(f"{what}: Healthcheck.Test is not a list")
    for item in test or ():
        _check_text(item, f"{what}: Healthcheck.Test")
    for key in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"):
        number = value.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, int) or abs(number) >= 1 << 63:
            raise ManifestError(f"{what}: Healthcheck.{key} is not a number")


def _check_text(value: object, what: str) -> None:
    """Refuse what could not be an argument of execve(2) or a line of UTF-8."""
    if not isinstance(value, str):
        raise ManifestError(f"{what} has something that is not a string")
    if "\0" in value:
        raise ManifestError(f"{what} has a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{what} has half a surrogate pair") from None


def check_platform(config: ImageConfig, asked: PlatformRequest, what: str) -> None:
    """Refuse an image for another platform than the wanted one.

    Images without a platform (made by hand) are taken as they are.
    """
    os_name = config.get("os") or asked.os
    architecture = config.get("architecture") or asked.architecture
    variant = config.get("variant") or ""
    if asked.rank(os_name, architecture, variant) is None:
        there = escape("/".join(part for part in (os_name, architecture, variant) if part))
        raise PlatformError(
            f"{what} is for {there[:100]}, not for {asked}",
            f"use --platform {there[:100]} if the host can run that",
        )
