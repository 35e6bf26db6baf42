"""Convert the values of flags about archives of images."""

from __future__ import annotations

FORMATS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")
COMPRESSIONS = ("gzip", "zstd")


def form(text: str) -> str:
    """Return a form of `save`."""
    if text not in FORMATS:
        raise ValueError(f"is none of {', '.join(FORMATS)}")
    return text


def compression(text: str) -> str:
    """Return a compression of layers."""
    if text not in COMPRESSIONS:
        raise ValueError(f"is none of {', '.join(COMPRESSIONS)}")
    return text
