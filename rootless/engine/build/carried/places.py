"""What --cache-from and --cache-to say, as plain data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless.errors import RlessError, escape
from rootless.frozen import Frozen
from rootless.image.layer.compress import LEVELS
from rootless.image.model.reference import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KINDS = ("local", "registry", "inline")
_ELSEWHERE = {
    "gha": "put the directory of type=local into the job's cache",
    "s3": "use type=registry, or copy the directory of type=local",
    "azblob": "use type=registry, or copy the directory of type=local",
}
_FROM = {"local": ("src", "tag"), "registry": ("ref",)}
_TO = {
    "local": ("dest", "tag", "mode", "compression", "compression-level", "ignore-error"),
    "registry": ("ref", "mode", "compression", "compression-level", "ignore-error"),
    "inline": ("mode",),
}
# How BuildKit writes what is one form here.
_TRUE = ("image-manifest", "oci-mediatypes")
_DEFAULT = {"local": "zstd", "registry": "gzip", "inline": ""}  # gzip: as a push has it


class Place(Frozen, kw_only=True):
    """Where a cache is, or goes.

    Attributes:
        kind: local, registry or inline.
        where: the absolute path of an OCI layout, or a name in a registry.
        tag: of the layout.
        everything: the results of all steps; else of those that the image is made of.
        compression, level: of new layers.
        may_fail: one that cannot be written is a warning.
    """

    kind: str
    where: str = ""
    tag: str = "latest"
    everything: bool = False
    compression: str = ""
    level: int | None = None
    may_fail: bool = False


def parse_from(texts: Sequence[str]) -> tuple[Place, ...]:
    """Return the places of --cache-from; a text without a type is a name in a registry.

    Raises:
        RlessError: an unknown type or key, or a place is missing.
    """
    return tuple(_parse(text, "--cache-from", _FROM) for text in texts)


def parse_to(texts: Sequence[str], build_args: Mapping[str, str]) -> tuple[Place, ...]:
    """Return the places of --cache-to, and of BUILDKIT_INLINE_CACHE=1.

    Raises:
        RlessError: as `parse_from`.
    """
    found = [_parse(text, "--cache-to", _TO) for text in texts]
    wants = build_args.get("BUILDKIT_INLINE_CACHE", "").lower()
    if wants not in ("", "0", "false") and not any(place.kind == "inline" for place in found):
        found.append(Place(kind="inline"))
    return tuple(found)


def _parse(text: str, flag: str, kinds: Mapping[str, Sequence[str]]) -> Place:
    from rootless.dockerfile.mounts import split_csv

    what = f"{flag} {escape(text)}"
    fields = split_csv(text) if text else []
    if len(fields) == 1 and "=" not in text:
        fields = ["type=registry", f"ref={text}"]
    options: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise RlessError(f"{what}: {escape(field)!r} is not KEY=VALUE")
        options[key.lower()] = value
    kind = options.pop("type", "")
    if kind in _ELSEWHERE:
        raise RlessError(f"{flag} type={kind} is not supported", _ELSEWHERE[kind])
    if kind not in kinds:
        named = f"the type {escape(kind)!r} is not known" if kind else "it has no type="
        raise RlessError(f"{what}: {named}", f"it is one of {', '.join(kinds)}")
    for key in _TRUE:
        if flag == "--cache-to" and options.pop(key, "true").lower() not in ("true", "1"):
            raise RlessError(f"{flag}: {key}=false is not supported: a cache is an OCI manifest")
    for key in options:
        if key not in kinds[kind]:
            raise RlessError(
                f"{flag}: {kind} has no option {escape(key)!r}",
                f"it takes {', '.join(kinds[kind])}",
            )
    return _made(kind, options, flag)


def _made(kind: str, options: Mapping[str, str], flag: str) -> Place:
    key = {"registry": "ref", "inline": ""}.get(kind, "src" if flag == "--cache-from" else "dest")
    where = options.get(key, "")
    if key and not where:
        raise RlessError(f"{flag}: {kind} needs {key}=")
    if kind == "registry":
        reference = parse(where)
        if reference.transport != "docker" or (reference.digest and flag == "--cache-to"):
            raise RlessError(f"{flag}: {escape(where)} is not a name in a registry")
    elif where:
        where = os.path.abspath(where)
    mode = options.get("mode", "min")
    if mode not in ("min", "max"):
        raise RlessError(f"{flag}: mode={escape(mode)} is neither min nor max")
    if kind == "inline" and mode == "max":
        raise RlessError(
            f"{flag}: inline has mode=min only: an image has no layers of other stages",
            "use type=registry,mode=max",
        )
    compression = options.get("compression", _DEFAULT[kind])
    if compression == "uncompressed":
        compression = ""
    elif compression and compression not in LEVELS:
        raise RlessError(
            f"{flag}: compression={escape(compression)} is not supported",
            f"use {', '.join(LEVELS)} or uncompressed",
        )
    fails = options.get("ignore-error", "false").lower()
    if fails not in ("true", "false", "1", "0"):
        raise RlessError(f"{flag}: ignore-error={escape(fails)} is neither true nor false")
    return Place(
        kind=kind,
        where=where,
        tag=options.get("tag") or "latest",
        everything=mode == "max",
        compression=compression,
        level=read_level(flag, compression, options.get("compression-level", "")),
        may_fail=fails in ("true", "1"),
    )


def read_level(flag: str, compression: str, text: str) -> int | None:
    """Return the value of compression-level=; None: the usual one.

    Raises:
        RlessError: it is none of that compression.
    """
    if not text:
        return None
    levels = LEVELS.get(compression, range(0))
    if not (text.isascii() and text.isdecimal()) or int(text[:4]) not in levels:
        what = f"compression-level={escape(text)} is none of {compression or 'no compression'}"
        hint = f"it is from {levels[0]} to {levels[-1]}" if levels else "leave it out"
        raise RlessError(f"{flag}: {what}", hint)
    return int(text)
