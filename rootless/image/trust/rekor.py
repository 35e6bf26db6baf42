"""Rekor: a signed promise of a transparency log that it has recorded a signature.

The promise is the "signed entry timestamp" of cosign's bundle annotation: the log's signature over
its entry, as canonical JSON (RFC 8785). The entry must be about this very signature: its payload,
its key or certificate, and its bytes. Otherwise the entry of one signature would vouch for another.

Source: cosign's SIGNATURE_SPEC.md, "bundle"; Rekor's hashedrekord schema 0.0.1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from rootless.errors import escape
from rootless.image.model.digest import is_hex, sha256
from rootless.image.trust.certificates import is_signed
from rootless.image.trust.pem import blocks, unbase64
from rootless.image.trust.signature import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WHAT = "the entry of the transparency log"
# What RFC 8785 writes as it is: a larger number would be rounded as a double.
_EXACT = 1 << 53


def verify(
    keys: Sequence[ec.EllipticCurvePublicKey],
    bundle: str,
    signer: bytes,
    signature: bytes,
    payload: bytes,
) -> int:
    """Return when a log recorded a signature, in seconds since the epoch.

    Args:
        keys: of the logs that are trusted.
        bundle: the annotation.
        signer: DER of the public key or certificate that the signature is by.

    Raises:
        RefusedError: no such log has signed the entry, or it is about something else.
    """
    document = _exact(_read(bundle), {"SignedEntryTimestamp": str, "Payload": dict})
    entry = _exact(
        document["Payload"], {"body": str, "integratedTime": int, "logIndex": int, "logID": str}
    )
    promise = unbase64(document["SignedEntryTimestamp"], _WHAT)
    canonical = canonical_entry(entry)
    if not any(is_signed(key, promise, canonical, hashes.SHA256()) for key in keys):
        raise RefusedError(f"{_WHAT} is not signed by a log of the policy")
    _match(
        _read(unbase64(entry["body"], _WHAT)),
        signer,
        signature,
        payload,
    )
    return int(entry["integratedTime"])


def _read(data: bytes | str) -> object:
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{_WHAT} is malformed: {escape(str(error))[:120]}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _exact(value: object, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return an object that has these fields, with values of these types, and no others."""
    if not isinstance(value, dict) or set(value) != set(fields):
        raise RefusedError(f"{_WHAT} does not have the fields {', '.join(fields)} and no other")
    for key, kind in fields.items():
        if type(value[key]) is not kind:  # True is an int to Python
            raise RefusedError(f"{_WHAT}: {key!r} is of another type")
    return value


def canonical_entry(entry: dict[str, Any]) -> bytes:
    """Return what the log has signed, for an entry of which no text needs an escape.

    Source: RFC 8785.
    """
    unbase64(entry["body"], _WHAT)
    if len(entry["logID"]) > 128 or not is_hex(entry["logID"], len(entry["logID"])):
        raise RefusedError(f"{_WHAT}: 'logID' is not hexadecimal")
    if not all(0 <= entry[key] < _EXACT for key in ("integratedTime", "logIndex")):
        raise RefusedError(f"{_WHAT} has a number that is out of range")
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _match(record: object, signer: bytes, signature: bytes, payload: bytes) -> None:
    """Check that a record of the log is about this signature."""
    if _at(record, "kind") != "hashedrekord" or _at(record, "apiVersion") != "0.0.1":
        raise RefusedError(f"{_WHAT} is no hashedrekord of version 0.0.1")
    recorded = blocks(_bytes_at(record, "spec", "signature", "publicKey", "content"), _WHAT)
    if len(recorded) != 1 or recorded[0][1] != signer:
        raise RefusedError(f"{_WHAT} is about another key")
    if _bytes_at(record, "spec", "signature", "content") != signature:
        raise RefusedError(f"{_WHAT} is about another signature")
    if _at(record, "spec", "data", "hash", "algorithm") != "sha256":
        raise RefusedError(f"{_WHAT} does not have a hash by SHA-256")
    if f"sha256:{_at(record, 'spec', 'data', 'hash', 'value')}" != sha256(payload):
        raise RefusedError(f"{_WHAT} is about another payload")


def _at(record: object, *keys: str) -> str:
    for key in keys:
        if not isinstance(record, dict) or key not in record:
            raise RefusedError(f"{_WHAT} has no {'.'.join(keys)!r}")
        record = record[key]
    if not isinstance(record, str):
        raise RefusedError(f"{_WHAT}: {'.'.join(keys)!r} is not a string")
    return record


def _bytes_at(record: object, *keys: str) -> bytes:
    return unbase64(_at(record, *keys), _WHAT)
