"""Signatures of sigstore in tests: keys, an authority as Fulcio is one, a log as Rekor is one.

key = Key(); signature = key.sign(digest, "host/app:1")
log = Log(); signature.annotations[BUNDLE] = log.record(signature, key.public_pem, moment)
fulcio = Authority(); leaf, pem = fulcio.issue("me@example.com", "https://issuer", moment)
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rootless.image.trust.signature import SigstoreSignature

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
BUNDLE = "dev.sigstore.cosign/bundle"
CERTIFICATE = "dev.sigstore.cosign/certificate"
CHAIN = "dev.sigstore.cosign/chain"
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")


def document(digest: str, name: str, **critical: Any) -> dict[str, Any]:
    """Return a payload; `critical` changes fields of that part."""
    return {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
            **critical,
        },
        "optional": None,
    }


class Key:
    """A key pair.

    Args:
        kind: "P-256", another curve of the library, "RSA", "RSA-1024" or "Ed25519".
    """

    def __init__(self, kind: str = "P-256") -> None:
        self.private: Any
        if kind.startswith("RSA"):
            size = int(kind.partition("-")[2] or 2048)
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=size)
        elif kind == "Ed25519":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            curve: ec.EllipticCurve = ec.SECP256R1()
            if kind != "P-256":
                curve = getattr(ec, kind)()
            self.private = ec.generate_private_key(curve)

    @property
    def public_pem(self) -> bytes:
        """Return the public key as a policy has it."""
        pem: bytes = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem

    def private_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the private key as OpenSSL writes it."""
        encryption: Any = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        pem: bytes = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        return pem

    def cosign_pem(self, passphrase: bytes) -> bytes:
        """Return the private key as cosign encrypts it."""
        from nacl.secret import SecretBox

        der = self.private.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        salt, nonce = b"s" * 32, b"n" * 24
        derived = hashlib.scrypt(
            passphrase, salt=salt, n=32768, r=8, p=1, maxmem=64 << 20, dklen=32
        )
        sealed = SecretBox(derived).encrypt(der, nonce).ciphertext
        content = {
            "kdf": {
                "name": "scrypt",
                "params": {"N": 32768, "r": 8, "p": 1},
                "salt": base64.b64encode(salt).decode(),
            },
            "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
            "ciphertext": base64.b64encode(sealed).decode(),
        }
        text = base64.encodebytes(json.dumps(content).encode()).decode()
        label = "ENCRYPTED COSIGN PRIVATE KEY"
        return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()

    def raw(self, data: bytes) -> bytes:
        """Return the signature over bytes."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        signed: bytes = self.private.sign(data, ec.ECDSA(hashes.SHA256()))
        return signed

    def sign(self, digest: str, name: str, **critical: Any) -> SigstoreSignature:
        """Return the signature that says: `name` has the manifest `digest`."""
        return self.sign_bytes(json.dumps(document(digest, name, **critical)).encode())

    def sign_bytes(self, payload: bytes) -> SigstoreSignature:
        """Return the signature over any payload."""
        text = base64.b64encode(self.raw(payload)).decode()
        return SigstoreSignature(MEDIA_TYPE, payload, {SIGNATURE: text})


class Log:
    """A transparency log."""

    def __init__(self) -> None:
        self.key = Key()

    def record(
        self, signature: SigstoreSignature, signer: bytes, moment: int | None = None, **entry: Any
    ) -> str:
        """Return the bundle that says that the log has a signature.

        Args:
            signer: PEM of the key or certificate. moment: when; None: now.
            entry: changes fields of the entry before it is signed.
        """
        record = {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {
                    "hash": {
                        "algorithm": "sha256",
                        "value": hashlib.sha256(signature.payload).hexdigest(),
                    }
                },
                "signature": {
                    "content": signature.annotations[SIGNATURE],
                    "publicKey": {"content": base64.b64encode(signer).decode()},
                },
            },
        }
        fields: dict[str, Any] = {
            "body": base64.b64encode(json.dumps(record).encode()).decode(),
            "integratedTime": int(time.time()) if moment is None else moment,
            "logID": hashlib.sha256(self.key.public_pem).hexdigest(),
            "logIndex": 7,
            **entry,
        }
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        promise = base64.b64encode(self.key.raw(canonical)).decode()
        return json.dumps({"SignedEntryTimestamp": promise, "Payload": fields})


class Authority:
    """An authority, and those below it.

    Args:
        above: who has issued it; None: itself.
        path_length, ca: of its basic constraints; ca None: it has none.
    """

    def __init__(
        self,
        name: str = "test-fulcio",
        above: Authority | None = None,
        *,
        path_length: int | None = None,
        ca: bool | None = True,
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = Key()
        extensions = list(more)
        if ca is not None:
            extensions.append((x509.BasicConstraints(ca, path_length), True))
        self.certificate = (above or self).make(
            self.name, self.key, extensions, 0, timedelta(days=36500)
        )

    @property
    def pem(self) -> bytes:
        """Return the certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def make(
        self,
        subject: x509.Name,
        key: Key,
        extensions: list[tuple[x509.ExtensionType, bool]],
        begin: int,
        lasts: timedelta,
        algorithm: Any = None,
    ) -> x509.Certificate:
        """Return a certificate for a key.

        Args:
            begin: seconds since the epoch.
        """
        first = datetime.fromtimestamp(begin, timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(first + lasts)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key.private, algorithm or hashes.SHA256())

    def issue(
        self,
        email: str,
        issuer: str | None,
        begin: int | None = None,
        *,
        lasts: timedelta = timedelta(minutes=10),
        issuer_v2: str | None = None,
        host: str | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> tuple[Key, bytes]:
        """Return a key and the PEM of its certificate, as Fulcio gives them for ten minutes.

        Args:
            issuer, issuer_v2: who confirmed the mail address, in the old and the new extension.
            begin: seconds since the epoch; None: now.
        """
        key = Key()
        names: list[x509.GeneralName] = [x509.RFC822Name(email)]
        if host:
            names.append(x509.DNSName(host))
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName(names), True),
            *more,
        ]
        if issuer is not None:
            extensions.append((x509.UnrecognizedExtension(_ISSUER, issuer.encode()), False))
        if issuer_v2 is not None:
            text = issuer_v2.encode()
            der = bytes([0x0C, len(text)]) + text
            extensions.append((x509.UnrecognizedExtension(_ISSUER_V2, der), False))
        start = int(time.time()) if begin is None else begin
        made = self.make(x509.Name([]), key, extensions, start, lasts)
        return key, made.public_bytes(serialization.Encoding.PEM)
