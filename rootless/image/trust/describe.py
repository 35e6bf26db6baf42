"""Tell what a signature says, to be shown; whether it is true only a policy can tell."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rootless.image.trust import payload, sigstore
from rootless.image.trust.signature import RefusedError, SigstoreSignature, read


def describe(blob: bytes) -> dict[str, Any]:
    """Return what a stored signature says: its type, and what is readable without a key.

    `Type` is "simple signing", "sigstore" or "unknown". One of sigstore has also `Name` and
    `Digest` of what it is for, `Created`, `Creator`, and whether it came with a `Certificate` and
    an entry of a `Log`.
    """
    try:
        signature = read(blob, "the signature")
        if not isinstance(signature, SigstoreSignature):
            return {"Type": "simple signing"}
        said = payload.read(signature.payload, payload.COSIGN)
    except RefusedError as error:
        return {"Type": "unknown", "Error": error.message}
    return {
        "Type": "sigstore",
        "Name": said.name,
        "Digest": said.digest,
        "Created": _time(said.optional.get("timestamp")),
        "Creator": said.optional.get("creator", ""),
        "Certificate": sigstore.CERTIFICATE in signature.annotations,
        "Log": sigstore.BUNDLE in signature.annotations,
    }


def _time(stamp: float | None) -> str:
    """Return seconds since the epoch as RFC 3339 has them, "" if there are none."""
    try:
        found = datetime.fromtimestamp(stamp, timezone.utc) if stamp is not None else None
    except (ValueError, OverflowError, OSError):
        found = None  # beyond what a date can be
    return found.isoformat().replace("+00:00", "Z") if found else ""
