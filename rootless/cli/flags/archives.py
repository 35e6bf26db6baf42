"""Convert the values of flags about archives of images."""

from __future__ import annotations


def form(text: str) -> str:
    """Return a form of `save`."""
    from rootless.image.archive.write import FORMATS

    if text not in FORMATS:
        raise ValueError(f"is none of {', '.join(FORMATS)}")
    return text


def compression(text: str) -> str:
    """Return a compression of layers."""
    from rootless.image.archive.write import COMPRESSIONS

    if text not in COMPRESSIONS:
        raise ValueError(f"is none of {', '.join(COMPRESSIONS)}")
    return text
