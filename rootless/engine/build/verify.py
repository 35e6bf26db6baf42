"""`build --verify`: build twice without the cache, and name the first file that differs.

Files are compared as the tars of the layers have them, so by all that an image keeps of a file.
What is built in the end is what was compared: the cache has the results of the second build.

Source: reproducible-builds.org, "Definitions".
"""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING, Any

from rootless import frozen, jsontext, paths
from rootless.engine.build import outputs
from rootless.engine.build.build import build
from rootless.engine.images import images
from rootless.errors import RlessError, escape
from rootless.image.layer.tar_reader import TarReader
from rootless.image.layer.tarsplit import open_tar
from rootless.image.store import records
from rootless.image.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.engine.build.request import BuildRequest
    from rootless.image.layer.tar_reader import Member

_PIECE = 1 << 20  # bytes
_FIELDS = (
    ("kind", "type"),
    ("mode", "mode"),
    ("uid", "owner"),
    ("gid", "group"),
    ("size", "size"),
    ("link", "target"),
    ("xattrs", "extended attributes"),
    ("mtime", "time"),
)


def verify(request: BuildRequest) -> str:
    """Build an image, if it is the same each time; return its id, "" where none was recorded.

    Raises:
        RlessError: it is not, or `build` has failed. Nothing was named or written then; the two
            images stay, so that they can be looked into.
    """
    if "-" in (request.context, request.file):
        raise RlessError(
            "--verify builds twice, and standard input can be read only once",
            "name a directory and a file",
            1,
        )
    rewrites = any(output.rewrite_timestamp for output in outputs.asked_for(request))
    alone = frozen.replace(
        request,
        no_cache=True,
        cache_from=(),
        cache_to=(),
        tags=(),
        annotations=(),
        outputs=("type=image,rewrite-timestamp=true",) if rewrites else (),
        push=False,
        load=False,
        iidfile="",
        metadata_file="",
    )
    pairs = []
    for platform in request.platforms or ("",):
        one = frozen.replace(alone, platforms=(platform,) if platform else ())
        first, second = build(one), build(one)
        if found := difference(first, second, with_times=request.epoch() is not None):
            raise RlessError(f"two builds differ: {found}", _remedy(request, found, rewrites), 1)
        pairs.append((first, second))
    made = build(frozen.replace(request, no_cache=False, no_cache_filter=()))
    if made and difference(pairs[request.main][1], made, with_times=False):
        raise RlessError("another build has changed the cache meanwhile", "verify again", 1)
    for identifier in {identifier for pair in pairs for identifier in pair} - {made}:
        if not images.inspect_image(identifier)["RepoTags"]:
            images.remove(identifier)
    return made


def _remedy(request: BuildRequest, found: str, rewrites: bool) -> str | None:
    """Return what helps against times, which differ first."""
    if not found.endswith((": time", "created")):
        return None
    if request.epoch() is None:
        return "set SOURCE_DATE_EPOCH, and --output type=image,rewrite-timestamp=true"
    return None if rewrites else "add --output type=image,rewrite-timestamp=true"


def difference(first: str, second: str, *, with_times: bool) -> str:
    """Return what differs first between two images of the store; "" if nothing does.

    Args:
        first, second: their ids. with_times: also when they, and their layers, were made.
    """
    store = Store(paths.storage_root())
    old, new = (_document(store, one) for one in (first, second))
    layers = [_layers(store, one, document) for one, document in ((first, old), (second, new))]
    for number, (one, other) in enumerate(itertools.zip_longest(*layers), 1):
        if one != other:
            if one is None or other is None:
                return "one has more layers than the other"
            return f"layer {number}: {_first_file(store.root, one, other)}"
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if not with_times:
            before, after = _without_times(key, before), _without_times(key, after)
        if before != after:
            return f"config: {escape(key)}"
    return ""


def _document(store: Store, identifier: str) -> dict[str, Any]:
    data = records.get_blob(store.root, identifier)
    if data is None:
        raise RlessError(f"the config of image {identifier[7:19]} is gone", "build again", 1)
    found: dict[str, Any] = jsontext.loads(data)
    return found


def _layers(store: Store, identifier: str, document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (chain id, diff_id) of each layer, bottom first."""
    image = store.lookup(identifier)
    if image is None:
        raise RlessError(f"image {identifier[7:19]} is gone", "build again", 1)
    return list(zip(image.chain, document["rootfs"]["diff_ids"], strict=True))


def _without_times(key: str, value: Any) -> Any:
    if key == "created":
        return None
    if key == "history":
        return [{**step, "created": None} for step in value or ()]
    return value


def _first_file(root: str, first: tuple[str, str], second: tuple[str, str]) -> str:
    """Return the first file that two layers do not have alike, and what of it differs."""
    for old, new in itertools.zip_longest(_files(root, first), _files(root, second)):
        if old is None or new is None or old[0].name != new[0].name:
            which = min(one[0].name for one in (old, new) if one is not None)
            return f"{_shown(which)}: only one of them has it"
        for field, what in _FIELDS:
            if getattr(old[0], field) != getattr(new[0], field):
                return f"{_shown(new[0].name)}: {what}"
        if old[1] != new[1]:
            return f"{_shown(new[0].name)}: content"
    return "the form of the archive"


def _files(root: str, layer: tuple[str, str]) -> Iterator[tuple[Member, bytes]]:
    """Yield the members of a layer, and the digest of what each contains."""
    stream = open_tar(root, *layer)
    try:
        reader = TarReader(stream, "layer")
        for member in reader:
            content = hashlib.sha256()
            left = sum(length for _, length in member.sparse) if member.sparse else member.size
            while left:
                content.update(piece := reader.read(min(left, _PIECE)))
                left -= len(piece)
            yield member, content.digest()
    finally:
        stream.close()


def _shown(name: bytes) -> str:
    return escape(os.fsdecode(b"/" + name.removeprefix(b"./")))
