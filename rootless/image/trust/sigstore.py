"""Signatures of sigstore, as cosign, Podman and skopeo make them: is one by whom a policy names?

A signature is a payload, which names an image, and annotations: the signature over the payload and,
where the policy wants them, a certificate and the promise of a transparency log. The bytes are
verified before they are read. Who signed is one of

    keyPath, keyPaths, keyData, keyDatas   a public key: ECDSA, RSA or Ed25519
    fulcio    a certificate for a mail address that an OpenID issuer has confirmed, which was valid
              when the log recorded the signature
    pki       a certificate for a mail address or host, which is valid now

Source: containers-policy.json(5), "sigstoreSigned"; cosign's SIGNATURE_SPEC.md; Fulcio's
oid-info.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rootless.errors import escape
from rootless.image.trust import payload
from rootless.image.trust.pem import unbase64
from rootless.image.trust.signature import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from rootless.image.trust.certificates import PublicKey
    from rootless.image.trust.identity import Subject
    from rootless.image.trust.requirements import Fulcio, Keys, Pki, SigstoreSigned
    from rootless.image.trust.signature import SigstoreSignature

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
BUNDLE = "dev.sigstore.cosign/bundle"
CERTIFICATE = "dev.sigstore.cosign/certificate"
CHAIN = "dev.sigstore.cosign/chain"

_ISSUER = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2 = "1.3.6.1.4.1.57264.1.8"
_UTF8_STRING = 0x0C
INSTALL = "install the package python3-cryptography, or rless[sigstore] by pip"


def verify(wanted: SigstoreSigned, signature: SigstoreSignature, subject: Subject) -> None:
    """Check that a signature is by whom a policy names, and is for this image under this name.

    Raises:
        RefusedError: it is not; a key of the policy cannot be read; or what verifies signatures
            is not installed.
    """
    need_library()
    from cryptography.hazmat.primitives import hashes

    from rootless.image.trust.certificates import is_signed

    if signature.mime_type != MEDIA_TYPE:
        raise RefusedError(f"it is an attachment of type {escape(signature.mime_type)[:80]}")
    keys = _signers(wanted, signature)
    signed = _signed(signature)
    if not any(is_signed(key, signed, signature.payload, hashes.SHA256()) for key in keys):
        raise RefusedError("it is not signed by the key of the policy")
    payload.read(signature.payload, payload.COSIGN).demand(subject, wanted.identity)


def need_library() -> None:
    """Check that `cryptography` is installed.

    Raises:
        RefusedError: it is not.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise RefusedError(
            "signatures of sigstore need the package cryptography", INSTALL
        ) from None


def _signers(wanted: SigstoreSigned, signature: SigstoreSignature) -> Sequence[PublicKey]:
    """Return the public keys of which one must have signed."""
    logs = _logs(wanted.rekor)
    if wanted.fulcio is not None:
        return [_key_of_fulcio(wanted.fulcio, logs, signature)]
    if wanted.pki is not None:
        if logs:
            raise RefusedError("pki takes no rekorPublicKey")
        return [_key_of_pki(wanted.pki, signature)]
    assert wanted.keys is not None
    keys = _keys(wanted.keys, "the key of the policy")
    return [_recorded_key(keys, logs, signature)] if wanted.rekor is not None else keys


def _recorded_key(
    keys: Sequence[PublicKey],
    logs: Sequence[ec.EllipticCurvePublicKey],
    signature: SigstoreSignature,
) -> PublicKey:
    """Return the key that a log has recorded the signature for."""
    from cryptography.hazmat.primitives import serialization

    from rootless.image.trust import rekor

    bundle = _annotation(signature, BUNDLE)
    failure = RefusedError("the policy has no key")
    for key in keys:
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            rekor.verify(logs, bundle, der, _signed(signature), signature.payload)
        except RefusedError as error:
            failure = error
            continue
        return key
    raise failure


def _key_of_fulcio(
    fulcio: Fulcio, logs: Sequence[ec.EllipticCurvePublicKey], signature: SigstoreSignature
) -> PublicKey:
    from cryptography.hazmat.primitives import serialization

    from rootless.image.trust import certificates, rekor

    leaf = _leaf(signature)
    der = leaf.public_bytes(serialization.Encoding.DER)
    bundle = _annotation(signature, BUNDLE)
    moment = rekor.verify(logs, bundle, der, _signed(signature), signature.payload)
    certificates.verify_path(leaf, _chain(signature), _authorities(fulcio.ca), moment)
    issuer = oidc_issuer(leaf)
    if issuer != fulcio.issuer:
        raise RefusedError(f"the signer was confirmed by another issuer: {escape(issuer)[:120]}")
    _check_email(leaf, fulcio.email)
    return certificates.key_of(leaf)


def _key_of_pki(pki: Pki, signature: SigstoreSignature) -> PublicKey:
    from rootless.image.trust import certificates

    leaf = _leaf(signature)
    if not (pki.email or pki.hostname):
        raise RefusedError("the policy does not say whom the certificate must be for")
    if pki.email:
        _check_email(leaf, pki.email)
    if pki.hostname and not certificates.is_for_host(leaf, pki.hostname):
        raise RefusedError(f"the certificate is not for the host {escape(pki.hostname)}")
    above = _chain(signature)
    if pki.intermediates is not None:
        above += _authorities(pki.intermediates)
    certificates.verify_path(leaf, above, _authorities(pki.roots), time.time())
    return certificates.key_of(leaf)


# -- what came with the signature ------------------------------------------------------------


def _annotation(signature: SigstoreSignature, key: str) -> str:
    try:
        return signature.annotations[key]
    except KeyError:
        raise RefusedError(f"the signature has no annotation {key}") from None


def _signed(signature: SigstoreSignature) -> bytes:
    return unbase64(_annotation(signature, SIGNATURE), "the signature")


def _leaf(signature: SigstoreSignature) -> x509.Certificate:
    from rootless.image.trust.certificates import load

    text = _annotation(signature, CERTIFICATE)
    found = load(text.encode("utf-8", "replace"), "the certificate")
    if len(found) != 1:
        raise RefusedError("the signature has more than one certificate")
    return found[0]


def _chain(signature: SigstoreSignature) -> list[x509.Certificate]:
    """Return the intermediate certificates that came along.

    The last of a chain is the root, as cosign writes it; only those of the policy count.
    """
    from rootless.image.trust.certificates import load

    text = signature.annotations.get(CHAIN)
    return load(text.encode("utf-8", "replace"), "the chain")[:-1] if text else []


def oidc_issuer(leaf: x509.Certificate) -> str:
    """Return who confirmed to Fulcio who the signer is: its extension 1.1 or 1.8.

    Raises:
        RefusedError: neither is there, or they differ.
    """
    from rootless.image.trust.certificates import extension

    old, new = extension(leaf, _ISSUER), extension(leaf, _ISSUER_V2)
    if new is not None:
        new = _utf8_string(new)
    found = new if old is None else old
    if found is None:
        raise RefusedError("the certificate does not say who confirmed the signer")
    if new is not None and found != new:
        raise RefusedError("the certificate has two different issuers")
    return found.decode("utf-8", "backslashreplace")


def _utf8_string(der: bytes) -> bytes:
    """Return the content of a UTF8String in DER, of up to 255 bytes."""
    is_long = der[1:2] == b"\x81"
    content = der[3 if is_long else 2 :]
    length = bytes([0x81, len(content) & 0xFF]) if is_long else bytes([len(content) & 0x7F])
    if der != bytes([_UTF8_STRING]) + length + content:
        raise RefusedError("the certificate has a malformed issuer")
    return content


def _check_email(leaf: x509.Certificate, wanted: str) -> None:
    from rootless.image.trust.certificates import emails

    given = emails(leaf)
    if wanted not in given:
        shown = escape(", ".join(given))[:120] or "nobody"
        raise RefusedError(f"the certificate is for {shown}, not for {escape(wanted)}")


# -- what the policy names -------------------------------------------------------------------


def _keys(keys: Keys, what: str) -> list[PublicKey]:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from rootless.image.trust import certificates

    found = []
    for data in keys.read():
        try:
            key = load_pem_public_key(data)
        except certificates.MALFORMED as error:
            raise RefusedError(f"{what} is no public key in PEM format ({keys})") from error
        found.append(certificates.usable(key, what))
    return found


def _logs(keys: Keys | None) -> list[ec.EllipticCurvePublicKey]:
    from cryptography.hazmat.primitives.asymmetric import ec

    found = []
    for key in _keys(keys, "the key of the log") if keys is not None else ():
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RefusedError(f"the key of the log is not one of ECDSA ({keys})")
        found.append(key)
    return found


def _authorities(keys: Keys) -> list[x509.Certificate]:
    from rootless.image.trust.certificates import load

    return [
        certificate
        for data in keys.read()
        for certificate in load(data, f"the authority of the policy ({keys})")
    ]
