"""Compress the tar of a layer. The same bytes come out of the same bytes, on every machine."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The media types of a layer, by its compression; "": none.
MEDIA_TYPES = {
    "": spec.OCI_LAYER,
    "gzip": spec.OCI_LAYER_GZIP,
    "zstd": spec.OCI_LAYER_ZSTD,
}
LEVELS = {"gzip": range(10), "zstd": range(1, 23)}
_DEFAULT = {"gzip": 6, "zstd": 3}


def compressed(
    chunks: Iterable[bytes], compression: str, level: int | None = None
) -> Iterator[bytes]:
    """Yield the compressed bytes.

    Args:
        compression: "gzip" or "zstd"; "": the bytes as they are.
        level: one of LEVELS; None: the usual one.
    """
    if not compression:
        yield from chunks
        return
    if level is None:
        level = _DEFAULT[compression]
    if compression == "zstd":
        import zstandard

        # With threads, also where there is one processor: without, other bytes come out.
        packer: Any = zstandard.ZstdCompressor(level=level, threads=-1).compressobj()
    else:
        packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()
