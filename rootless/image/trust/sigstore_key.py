"""Sign with a private key, as `cosign sign --key` and `podman push --sign-by-sigstore-private-key`.

The key is a PEM file: one that cosign or skopeo has generated, or one of OpenSSL. cosign encrypts
by scrypt and NaCl's secretbox, which `cryptography` does not have; PyNaCl opens it.

Source: cosign's SIGNATURE_SPEC.md; go-securesystemslib, `encrypted`.
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from rootless import __version__
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.trust import payload, sigstore
from rootless.image.trust.pem import blocks, unbase64
from rootless.image.trust.signature import RefusedError, SigstoreSignature

if TYPE_CHECKING:
    from typing import TypeAlias

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    from rootless.image.trust.identity import Named

    PrivateKey: TypeAlias = (
        ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    )

_COSIGN = ("ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY")
_SCRYPT_MOST = 1 << 20  # cost; the memory that it takes is 1 KiB each
_WRONG = "the passphrase is wrong, or the file is damaged"


def load(path: str, passphrase: str | None) -> PrivateKey:
    """Return the private key of a file.

    Args:
        passphrase: None: none was given.

    Raises:
        RlessError: it cannot be read or opened; or a package is not installed.
    """
    sigstore.need_library()
    from cryptography.hazmat.primitives import serialization

    from rootless.image.trust.certificates import MALFORMED, usable

    what = f"the private key {escape(path)}"
    data = _read(path, what)
    label, content = blocks(data, what)[-1]  # "EC PARAMETERS" may come before
    is_encrypted = "ENCRYPTED" in label
    if is_encrypted and passphrase is None:
        raise RlessError(f"{what} has a passphrase", "name its file by --sign-passphrase-file")
    secret = passphrase.encode() if passphrase is not None else None
    try:
        if label in _COSIGN:
            assert secret is not None
            der = _open_cosign(content, secret, what)
            key: Any = serialization.load_der_private_key(der, None)
        else:
            key = serialization.load_pem_private_key(data, secret if is_encrypted else None)
    except MALFORMED as error:
        why = _WRONG if is_encrypted else "it is malformed, or of an unknown kind"
        raise RlessError(f"cannot use {what}: {why}") from error
    usable(key.public_key(), what)
    checked: PrivateKey = key
    return checked


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limits.AUTH_BYTES)
    except OSError as error:
        raise RlessError(f"cannot read {what}: {error.strerror}") from error


def _open_cosign(content: bytes, secret: bytes, what: str) -> bytes:
    """Return the DER of a key that cosign or skopeo has encrypted."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    try:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox
    except ImportError:
        raise RlessError(
            f"{what} is encrypted as cosign does, which needs the package PyNaCl",
            "install python3-nacl, or PyNaCl by pip; or use a key of OpenSSL",
        ) from None
    try:
        document = json.loads(content)
        kdf, cipher = document["kdf"], document["cipher"]
        cost = kdf["params"]
        if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
            raise ValueError("another algorithm")
        if not 1 < cost["N"] <= _SCRYPT_MOST or (cost["r"], cost["p"]) != (8, 1):
            raise ValueError("an unusual cost")
        salt = unbase64(kdf["salt"], what)
        nonce = unbase64(cipher["nonce"], what)
        derived = Scrypt(salt=salt, length=32, n=cost["N"], r=cost["r"], p=cost["p"]).derive(secret)
        return bytes(SecretBox(derived).decrypt(unbase64(document["ciphertext"], what), nonce))
    except (CryptoError, MemoryError) as error:
        raise RlessError(f"cannot use {what}: {_WRONG}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RefusedError) as error:
        raise RlessError(f"cannot use {what}: it is malformed, or of an unknown kind") from error


def sign(digest: str, named: Named, key: PrivateKey) -> SigstoreSignature:
    """Return the signature that says: this name has this manifest.

    Args:
        digest: of the manifest.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    optional = {"creator": f"rless {__version__}", "timestamp": int(time.time())}
    document = payload.make(payload.COSIGN, digest, str(named), optional)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signed = key.sign(document, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signed = key.sign(document, padding.PKCS1v15(), hashes.SHA256())
    else:
        signed = key.sign(document)
    text = base64.b64encode(signed).decode()
    return SigstoreSignature(sigstore.MEDIA_TYPE, document, {sigstore.SIGNATURE: text})
