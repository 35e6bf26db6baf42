"""Digests: the only names that blobs and layers have on disk.

A digest from outside is plain text until `is_digest` has accepted it. Used as a path before that,
it could write anywhere (CVE-2024-3727).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX = "sha256:"


def is_digest(value: object) -> bool:
    """Tell whether `value` is exactly "sha256:" and 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and value.startswith(_PREFIX) and is_hex(value[7:], 64)


def is_hex(text: str, length: int) -> bool:
    """Tell whether `text` is `length` lower-case hexadecimal digits."""
    return len(text) == length and not text.strip("0123456789abcdef")


def sha256(data: bytes) -> str:
    """Return the digest of `data`."""
    import hashlib

    return _PREFIX + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Return the chain id of each layer: names it together with all layers below it.

    The same layer over other layers is another directory: its implied parents differ.

    Source: OCI image-spec, config.md, "Layer ChainID".
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


def chain_id(below: str | None, diff_id: str) -> str:
    """Return the chain id of a layer on top of others; None: it is the lowest."""
    return sha256(f"{below} {diff_id}".encode()) if below else diff_id
