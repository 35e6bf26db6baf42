"""Signatures of images as they are stored: simple signing (OpenPGP) and sigstore.

A file of a lookaside directory holds either. What begins with a NUL, the name of a format and a
newline is of that format; "sigstore-json" is one. All else is taken for an OpenPGP message.

Source: containers/image, docs/signature-protocols.md and internal/signature.
"""

from __future__ import annotations

import base64
import binascii

from rootless import jsontext
from rootless.errors import RlessError
from rootless.image.config import manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rootless.image.trust.identity import Named

    # Signs the manifest of a digest, under a name.
    Signer = Callable[[str, Named], "SimpleSignature | SigstoreSignature"]

_SIMPLE = b"\0simple-signing\n"
_SIGSTORE = b"\0sigstore-json\n"


class RefusedError(RlessError):
    """A signature, or an image, is not accepted; the message is the reason."""


class SimpleSignature:
    """An OpenPGP message with the payload in it; nothing of it is checked yet."""

    __slots__ = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message

    def blob(self) -> bytes:
        """Return it as it is stored."""
        return self.message


class SigstoreSignature:
    """A layer of a sigstore attachment; nothing of it is checked yet.

    Attributes:
        mime_type: of the payload. payload: what was signed.
        annotations: of the layer: the signature, and what else was sent with it.
    """

    __slots__ = ("annotations", "mime_type", "payload")

    def __init__(self, mime_type: str, payload: bytes, annotations: Mapping[str, str]) -> None:
        self.mime_type = mime_type
        self.payload = payload
        self.annotations = dict(annotations)

    def blob(self) -> bytes:
        """Return it as it is stored."""
        document = {
            "mimeType": self.mime_type,
            "payload": base64.b64encode(self.payload).decode(),
            "annotations": self.annotations,
        }
        return _SIGSTORE + jsontext.dumps(document, sort_keys=True).encode()


def read(blob: bytes, what: str) -> SimpleSignature | SigstoreSignature:
    """Return the signature in a stored blob.

    Args:
        what: how errors name it.

    Raises:
        RefusedError: it is of an unknown format, or malformed.
    """
    if blob.startswith(_SIMPLE):
        return SimpleSignature(blob.removeprefix(_SIMPLE))
    if blob.startswith(_SIGSTORE):
        return _read_sigstore(blob.removeprefix(_SIGSTORE), what)
    if blob.startswith(b"\0"):
        raise RefusedError(f"{what} is of no known format")
    return SimpleSignature(blob)


def _read_sigstore(data: bytes, what: str) -> SigstoreSignature:
    try:
        document = manifest.read_object(data, what)
    except manifest.ManifestError as error:
        raise RefusedError(error.message) from error
    kind, payload = document.get("mimeType"), document.get("payload")
    annotations = document.get("annotations")
    if not isinstance(kind, str) or not isinstance(payload, str):
        raise RefusedError(f"{what} has no mimeType or no payload")
    if not isinstance(annotations, dict) or not all(
        isinstance(value, str) for value in annotations.values()
    ):
        raise RefusedError(f"{what} has annotations that are no strings")
    try:
        return SigstoreSignature(kind, base64.b64decode(payload, validate=True), annotations)
    except (binascii.Error, ValueError):
        raise RefusedError(f"{what} has a payload that is not base64") from None
