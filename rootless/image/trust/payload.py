"""What a signature signs: a JSON document that names a manifest by its digest and an image by name.

Simple signing and sigstore have the same document, but for its `critical.type`. Whatever is in
`critical` has to be understood: another field there, or a field twice, refuses the signature.

Source: containers-signature(5); cosign, specs/SIGNATURE_SPEC.md.
"""

from __future__ import annotations

import json

from rootless.errors import RlessError, escape
from rootless.image.model.digest import is_digest
from rootless.image.trust.signature import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.trust.identity import SignedIdentity, Subject

SIMPLE = "atomic container signature"
COSIGN = "cosign container image signature"
MOST_BYTES = 64 << 10  # real ones have some hundred


class Payload:
    """A document that was read and checked for its form.

    Attributes:
        digest: of the manifest. name: of the image.
        optional: what else the signer says; nothing in it is verified to be true.
    """

    __slots__ = ("digest", "name", "optional")

    def __init__(self, digest: str, name: str, optional: dict[str, Any]) -> None:
        self.digest = digest
        self.name = name
        self.optional = optional

    def demand(self, subject: Subject, identity: SignedIdentity) -> None:
        """Raise RefusedError unless this is about the image that was asked for."""
        if self.digest != subject.digest:
            raise RefusedError(f"the signature is for another image: {self.digest}")
        if not identity.matches(subject, self.name):
            raise RefusedError(f"the signature is for another name: {escape(self.name)[:300]}")


def read(data: bytes, kind: str) -> Payload:
    """Return the payload in `data`.

    Args:
        kind: SIMPLE or COSIGN.

    Raises:
        RefusedError: it is none of that kind.
    """
    if len(data) > MOST_BYTES:
        raise RefusedError(f"the payload of a signature is larger than {MOST_BYTES} bytes")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        _fields(document, "the payload", "critical", "optional")
        critical = _fields(document["critical"], "critical", "type", "image", "identity")
        image = _fields(critical["image"], "critical.image", "docker-manifest-digest")
        identity = _fields(critical["identity"], "critical.identity", "docker-reference")
        optional = document["optional"]
        if optional is None and kind == COSIGN:
            optional = {}
        _check_optional(optional)
    except (ValueError, OverflowError, RecursionError) as error:
        why = escape(str(error))[:200]
        raise RefusedError(f"the payload of the signature is malformed: {why}") from None
    digest, name = image["docker-manifest-digest"], identity["docker-reference"]
    if critical["type"] != kind:
        raise RefusedError(f"the payload of the signature is not a {kind!r}")
    if not is_digest(digest) or not isinstance(name, str):
        raise RefusedError("the signature names no image that rless could have: bad digest or name")
    return Payload(digest, name, optional)


def make(kind: str, digest: str, name: str, optional: dict[str, Any]) -> bytes:
    """Return the document to sign.

    Args:
        kind: SIMPLE or COSIGN. name: full, as "docker.io/library/busybox:1".
    """
    if not is_digest(digest):
        raise RlessError(f"{escape(digest)[:100]!r} is no digest")
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": optional}, separators=(",", ":")).encode()


def _check_optional(optional: object) -> None:
    if not isinstance(optional, dict):
        raise ValueError("optional is not an object")
    if not isinstance(optional.get("creator", ""), str):
        raise ValueError("optional.creator is not a string")
    stamp = optional.get("timestamp", 0)
    if isinstance(stamp, bool) or not isinstance(stamp, int | float) or stamp != int(stamp):
        raise ValueError("optional.timestamp is not a whole number")


def _fields(value: object, what: str, *names: str) -> dict[str, Any]:
    """Return an object that has exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"{what} does not have the fields {', '.join(names)} and no other")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found
