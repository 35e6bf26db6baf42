"""Simple signing: an OpenPGP message that says which manifest an image of a name has.

Source: containers-signature(5).
"""

from __future__ import annotations

import time

from rootless import __version__
from rootless.errors import escape
from rootless.image.trust import gpg, payload
from rootless.image.trust.signature import RefusedError, SimpleSignature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.trust.identity import Named, Subject
    from rootless.image.trust.requirements import SignedBy


def verify(requirement: SignedBy, signature: SimpleSignature, subject: Subject) -> None:
    """Raise RefusedError unless a signature meets a requirement for this image.

    The keys come first: a payload is only read once it is known who has signed it.
    """
    if requirement.key_type != "GPGKeys":
        raise RefusedError(f"keyType {escape(requirement.key_type)} is not implemented")
    if not signature.message or not signature.message[0] & 0x80:
        raise RefusedError("the signature is no OpenPGP message")
    signed = gpg.verify(signature.message, requirement.keys.read())
    payload.read(signed, payload.SIMPLE).demand(subject, requirement.identity)


def sign(digest: str, named: Named, key: str, passphrase: str | None = None) -> SimpleSignature:
    """Return a signature of a manifest under a name, by a key of the user.

    Raises:
        RlessError: as `gpg.sign`.
    """
    optional = {"creator": f"rless {__version__}", "timestamp": int(time.time())}
    document = payload.make(payload.SIMPLE, digest, str(named), optional)
    return SimpleSignature(gpg.sign(document, key, passphrase))
