"""Certificates: is one issued, through others, by an authority that a policy names?

The library verifies each signature. The path from certificate to authority is followed here,
because the library has no such thing before its release 42, and afterwards for web servers only.
What the path does not understand it refuses: critical extensions, name constraints, weak hashes.

Source: RFC 5280, section 6.1; extended key usage is asked of each certificate in the path, as
Go's crypto/x509 does.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from rootless.errors import escape
from rootless.image.trust.pem import blocks
from rootless.image.trust.signature import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RSA_BITS = 2048
_HASHES = ("sha256", "sha384", "sha512")
_PATH = 8  # certificates from the leaf to the authority
_CHECKS = 64  # signatures that are verified in search of a path
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
# What the library raises where a stranger's certificate or key is malformed.
MALFORMED = (
    ValueError,
    OverflowError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def usable(key: object, what: str) -> PublicKey:
    """Return a public key if it is of a kind that signatures are accepted from.

    Raises:
        RefusedError: it is of another kind or curve, or too small.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name in _CURVES:
            return key
        raise RefusedError(f"{what} is on the curve {key.curve.name}: refused", "use P-256")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size >= _RSA_BITS:
            return key
        raise RefusedError(
            f"{what} has {key.key_size} bits: refused", f"use RSA with at least {_RSA_BITS}"
        )
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise RefusedError(f"{what} is of an unknown kind", "use ECDSA P-256, RSA or Ed25519")


def key_of(certificate: x509.Certificate) -> PublicKey:
    """Return the key of a certificate, if signatures are accepted from it.

    Raises:
        RefusedError: they are not, or it is malformed.
    """
    try:
        key = certificate.public_key()
    except MALFORMED as error:
        raise RefusedError("the key of the certificate is malformed or unknown") from error
    return usable(key, "the key of the certificate")


def is_signed(
    key: PublicKey, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    """Tell whether a signature over `data` is this key's: ECDSA, RSA PKCS #1 v1.5 or Ed25519.

    Args:
        algorithm: the hash; Ed25519 has its own.
    """
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            key.verify(signature, data)
    except (InvalidSignature, *MALFORMED):
        return False
    return True


def load(data: bytes, what: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM document, of which there must be one at least.

    Raises:
        RefusedError: it is no such document, or a certificate in it is malformed.
    """
    found = []
    for label, der in blocks(data, what):
        if label != "CERTIFICATE":
            raise RefusedError(f"{what} has a {escape(label)} in place of a certificate")
        try:
            found.append(x509.load_der_x509_certificate(der))
        except MALFORMED as error:
            raise RefusedError(f"{what}: a certificate is malformed") from error
    return found


def verify_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    moment: float,
) -> None:
    """Check that `roots` have issued a certificate for signing code, valid at a moment.

    Args:
        moment: seconds since the epoch.

    Raises:
        RefusedError: they have not, or something in the path is not understood.
    """
    try:
        _check(leaf, moment)
        _Search(intermediates, roots, moment).run([leaf])
    except MALFORMED as error:
        raise RefusedError("the certificate or one above it is malformed") from error


class _Search:
    """Looks for a path from a leaf to a root, and says of the last dead end why it was one."""

    def __init__(
        self,
        intermediates: Sequence[x509.Certificate],
        roots: Sequence[x509.Certificate],
        moment: float,
    ) -> None:
        self._intermediates = intermediates
        self._roots = roots
        self._moment = moment
        self._left = _CHECKS

    def run(self, path: list[x509.Certificate]) -> None:
        failure = RefusedError("the certificate is not issued by an authority of the policy")
        for issuer in self._roots:
            if self._has_issued(issuer, path[-1]):
                try:
                    _check_issuer(issuer, len(path) - 1, self._moment)
                except RefusedError as error:
                    failure = error
                    continue
                return
        for issuer in self._intermediates:
            if len(path) >= _PATH or issuer in path or not self._has_issued(issuer, path[-1]):
                continue
            try:
                _check_issuer(issuer, len(path) - 1, self._moment)
                self.run([*path, issuer])
            except RefusedError as error:
                failure = error
                continue
            return
        raise failure

    def _has_issued(self, issuer: x509.Certificate, subject: x509.Certificate) -> bool:
        if issuer.subject != subject.issuer:
            return False
        self._left -= 1
        if self._left < 0:
            raise RefusedError("the certificate comes with too many others")
        algorithm = subject.signature_hash_algorithm
        if algorithm is None:
            algorithm = hashes.SHA512()  # that of Ed25519, which asks for none
        elif algorithm.name not in _HASHES:
            raise RefusedError(f"the certificate is signed over {algorithm.name}: refused")
        key = usable(issuer.public_key(), "the key of an authority")
        return is_signed(key, subject.signature, subject.tbs_certificate_bytes, algorithm)


def _check_issuer(issuer: x509.Certificate, below: int, moment: float) -> None:
    """Check that a certificate may issue others.

    Args:
        below: how many authorities are between it and the leaf.
    """
    _check(issuer, moment)
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise RefusedError("an issuer of the certificate is no authority") from None
    if not constraints.ca:
        raise RefusedError("an issuer of the certificate is no authority")
    if constraints.path_length is not None and below > constraints.path_length:
        raise RefusedError("too many authorities are between the certificate and the policy's")
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise RefusedError("an issuer of the certificate may not issue certificates")


def _check(certificate: x509.Certificate, moment: float) -> None:
    """Check what holds for each certificate of a path."""
    first, last = _validity(certificate)
    if not first <= moment <= last:
        when = datetime.fromtimestamp(moment, timezone.utc).isoformat().replace("+00:00", "Z")
        raise RefusedError(f"the certificate or one above it was not valid at {when}")
    for extension in certificate.extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS or (
            extension.critical and extension.oid not in _UNDERSTOOD
        ):
            raise RefusedError(
                f"a certificate has the extension {extension.oid.dotted_string}: not understood"
            )
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    wanted = (ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if not any(usage in wanted for usage in usages):
        raise RefusedError("the certificate or one above it is not for signing code")


def _validity(certificate: x509.Certificate) -> tuple[float, float]:
    """Return when a certificate begins and ends, in seconds since the epoch."""
    if hasattr(certificate, "not_valid_before_utc"):  # since release 42
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    else:
        first = certificate.not_valid_before.replace(tzinfo=timezone.utc)
        last = certificate.not_valid_after.replace(tzinfo=timezone.utc)
    return first.timestamp(), last.timestamp()


def emails(certificate: x509.Certificate) -> list[str]:
    """Return the mail addresses that a certificate is for."""
    names = _names(certificate)
    return [] if names is None else list(names.get_values_for_type(x509.RFC822Name))


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is for a host; "*" stands for the first label of a name.

    Source: RFC 6125, section 6.4.3.
    """
    names = _names(certificate)
    wanted = host.lower().rstrip(".")
    for pattern in [] if names is None else names.get_values_for_type(x509.DNSName):
        given = pattern.lower().rstrip(".")
        if given == wanted:
            return True
        first, dot, rest = given.partition(".")
        if first == "*" and dot and "." in rest and wanted.partition(".")[2] == rest:
            return True
    return False


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except MALFORMED as error:
        raise RefusedError("the names in the certificate are malformed") from error


def extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    """Return the bytes of an extension that the library does not know."""
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        return None
    except MALFORMED as error:
        raise RefusedError("an extension of the certificate is malformed") from error
    return found.value if isinstance(found, x509.UnrecognizedExtension) else None
