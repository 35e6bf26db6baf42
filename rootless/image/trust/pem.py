"""PEM: the textual form of keys and certificates (RFC 7468)."""

from __future__ import annotations

import base64
import binascii
import re

from rootless.image.trust.signature import RefusedError

_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,60})-----\s*\n([A-Za-z0-9+/=\s]*?)-----END \1-----\s*", re.ASCII
)


def blocks(data: bytes, what: str) -> list[tuple[str, bytes]]:
    """Return label and content of each block, of which there must be one at least.

    Text before a block explains it, as in bundles of authorities.

    Raises:
        RefusedError: there is none, a block is malformed, or text follows the last one.
    """
    found = []
    rest = data.strip()
    while rest:
        match = _BLOCK.search(rest)
        if match is None or b"-----BEGIN" in rest[: match.start()]:
            break
        try:
            content = base64.b64decode(b"".join(match[2].split()), validate=True)
        except binascii.Error:
            break
        found.append((match[1].decode(), content))
        rest = rest[match.end() :]
    if rest or not found:
        raise RefusedError(f"{what} is not in PEM format")
    return found


def write(label: str, content: bytes) -> bytes:
    """Return one block."""
    text = base64.b64encode(content)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    name = label.encode()
    return b"\n".join(
        [b"-----BEGIN " + name + b"-----", *lines, b"-----END " + name + b"-----", b""]
    )


def unbase64(text: str, what: str) -> bytes:
    """Return what base64 (RFC 4648, section 4) stands for.

    Raises:
        RefusedError: it is none.
    """
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise RefusedError(f"{what} is not base64") from error
