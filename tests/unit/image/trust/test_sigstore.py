"""A rule "sigstoreSigned": what signature meets it, and each way in which one can be false.

Security class 82.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from rootless.image.trust import certificates, sigstore
from rootless.image.trust.identity import MATCH_REPO_DIGEST_OR_EXACT, Named, SignedIdentity, Subject
from rootless.image.trust.requirements import Fulcio, Keys, Pki, SigstoreSigned
from rootless.image.trust.signature import RefusedError, SigstoreSignature, read
from tests.lib.sigstore import BUNDLE, CERTIFICATE, CHAIN, SIGNATURE, Authority, Key, Log

NAME = "registry.example.com/team/app"
DIGEST = f"sha256:{'1' * 64}"
OTHER = f"sha256:{'2' * 64}"
SUBJECT = Subject("docker", Named(NAME, "1", None), digest=DIGEST)
EMAIL, ISSUER = "me@example.com", "https://issuer.example.com"
MOMENT = 1_700_000_000  # when the signatures of this file were made
EXACT = SignedIdentity(MATCH_REPO_DIGEST_OR_EXACT)


def by(*keys: Key, rekor: Log | None = None) -> SigstoreSigned:
    log = None if rekor is None else Keys(datas=(rekor.key.public_pem,))
    return SigstoreSigned(EXACT, keys=Keys(datas=tuple(key.public_pem for key in keys)), rekor=log)


def verify(wanted: SigstoreSigned, signature: SigstoreSignature, subject: Subject = SUBJECT) -> str:
    """Return why a signature is refused, "" if it is not."""
    try:
        sigstore.verify(wanted, signature, subject)
    except RefusedError as error:
        return error.message
    return ""


# -- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["P-256", "SECP384R1", "SECP521R1", "RSA", "Ed25519"])
def test_a_signature_by_the_key_is_accepted(kind: str) -> None:
    key = Key(kind)
    assert verify(by(key), key.sign(DIGEST, f"{NAME}:1")) == ""


def test_one_of_several_keys_is_enough() -> None:
    first, second = Key(), Key("RSA")
    assert verify(by(first, second), second.sign(DIGEST, f"{NAME}:1")) == ""


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    key = Key()
    path = tmp_path / "key.pub"
    wanted = SigstoreSigned(EXACT, keys=Keys(paths=(str(path),)))
    assert "cannot read the key" in verify(wanted, key.sign(DIGEST, f"{NAME}:1"))
    path.write_bytes(key.public_pem)
    assert verify(wanted, key.sign(DIGEST, f"{NAME}:1")) == ""
    path.write_bytes(b"no key")
    assert "is no public key" in verify(wanted, key.sign(DIGEST, f"{NAME}:1"))


def test_a_signature_by_another_key_is_refused() -> None:
    assert "not signed by the key" in verify(by(Key()), Key().sign(DIGEST, f"{NAME}:1"))


@pytest.mark.parametrize("kind", ["SECP256K1", "SECP224R1"])
def test_a_key_on_another_curve_is_refused(kind: str) -> None:
    key = Key(kind)
    assert "is on the curve" in verify(by(key), key.sign(DIGEST, f"{NAME}:1"))


def test_a_small_rsa_key_is_refused() -> None:
    key = Key("RSA-1024")
    assert "1024 bits" in verify(by(key), key.sign(DIGEST, f"{NAME}:1"))


def test_a_signature_of_another_kind_of_key_is_refused() -> None:
    key = Key()
    signature = key.sign(DIGEST, f"{NAME}:1")
    for kind in ("RSA", "Ed25519", "SECP384R1"):
        assert "not signed by the key" in verify(by(Key(kind)), signature)


def test_a_signature_that_is_cut_is_refused() -> None:
    key = Key()
    whole = key.sign(DIGEST, f"{NAME}:1")
    signed = base64.b64decode(whole.annotations[SIGNATURE])
    for part in (b"", signed[:-1], signed[1:], signed + b"\0"):
        whole.annotations[SIGNATURE] = base64.b64encode(part).decode()
        assert "not signed by the key" in verify(by(key), whole)
    for text in ("", "%%%", "é", whole.annotations[SIGNATURE] + "\n\n="):
        whole.annotations[SIGNATURE] = text
        assert verify(by(key), whole)


def test_a_payload_that_was_changed_is_refused() -> None:
    key = Key()
    signature = key.sign(DIGEST, f"{NAME}:1")
    signature.payload = signature.payload.replace(b"1111", b"2222")
    assert "not signed by the key" in verify(by(key), signature)


def test_what_is_not_a_signature_is_refused() -> None:
    key = Key()
    signature = key.sign(DIGEST, f"{NAME}:1")
    signature.mime_type = "application/vnd.dsse.envelope.v1+json"
    assert "attachment of type" in verify(by(key), signature)
    del signature.annotations[SIGNATURE]
    signature.mime_type = sigstore.MEDIA_TYPE
    assert "no annotation" in verify(by(key), signature)


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key()
    signature = key.sign(DIGEST, f"{NAME}:1")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RefusedError) as caught:
        sigstore.verify(by(key), signature, SUBJECT)
    assert "need the package cryptography" in caught.value.message
    assert "python3-cryptography" in str(caught.value.hint)


# -- what is signed --------------------------------------------------------------------------


def test_a_signature_of_another_image_is_refused() -> None:
    key = Key()
    assert "for another image" in verify(by(key), key.sign(OTHER, f"{NAME}:1"))


@pytest.mark.parametrize(
    "name", [f"{NAME}:2", NAME, f"{NAME}@{DIGEST}", "registry.example.com/team/other:1", "", "a b"]
)
def test_a_signature_for_another_name_is_refused(name: str) -> None:
    key = Key()
    assert "for another name" in verify(by(key), key.sign(DIGEST, name))


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "atomic container signature"},
        {"type": None},
        {"image": {"docker-manifest-digest": DIGEST, "more": 1}},
        {"image": {}},
        {"image": {"docker-manifest-digest": "sha512:" + "1" * 128}},
        {"identity": {"docker-reference": 1}},
        {"unknown": True},
    ],
)
def test_a_critical_part_that_is_not_understood_is_refused(changed: dict[str, Any]) -> None:
    key = Key()
    assert verify(by(key), key.sign(DIGEST, f"{NAME}:1", **changed))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"critical":{},"optional":null,"optional":null}',
        b"x" * (1 << 20),
    ],
)
def test_a_signed_payload_that_is_none_is_refused(payload: bytes) -> None:
    key = Key()
    assert verify(by(key), key.sign_bytes(payload))


def test_a_field_that_comes_twice_is_refused() -> None:
    key = Key()
    text = key.sign(DIGEST, f"{NAME}:1").payload.decode()
    twice = text.replace('"type":', '"type": "cosign container image signature", "type":')
    assert "twice" in verify(by(key), key.sign_bytes(twice.encode()))


@pytest.mark.parametrize("optional", [{"timestamp": 1.5}, {"creator": 1}, {"timestamp": "1"}, 1])
def test_an_optional_part_of_another_type_is_refused(optional: object) -> None:
    key = Key()
    document = json.loads(key.sign(DIGEST, f"{NAME}:1").payload)
    document["optional"] = optional
    assert verify(by(key), key.sign_bytes(json.dumps(document).encode()))


def test_a_time_that_is_no_number_is_refused() -> None:
    key = Key()
    text = key.sign(DIGEST, f"{NAME}:1").payload.decode()
    for value in ("1e999", "NaN", "-Infinity"):
        changed = text.replace("null", f'{{"timestamp": {value}}}')
        assert verify(by(key), key.sign_bytes(changed.encode()))


def test_whatever_else_is_in_the_optional_part_is_accepted() -> None:
    key = Key()
    document = json.loads(key.sign(DIGEST, f"{NAME}:1").payload)
    document["optional"] = {"creator": "me", "timestamp": 1700000000, "commit": "abc"}
    assert verify(by(key), key.sign_bytes(json.dumps(document).encode())) == ""


def test_a_signature_is_the_same_when_it_was_stored() -> None:
    key = Key()
    stored = read(key.sign(DIGEST, f"{NAME}:1").blob(), "signature-1")
    assert isinstance(stored, SigstoreSignature)
    assert verify(by(key), stored) == ""


# -- the log ---------------------------------------------------------------------------------


def recorded(key: Key, log: Log, **entry: Any) -> SigstoreSignature:
    signature = key.sign(DIGEST, f"{NAME}:1")
    signature.annotations[BUNDLE] = log.record(signature, key.public_pem, MOMENT, **entry)
    return signature


def test_a_signature_that_the_log_has_is_accepted() -> None:
    key, log = Key(), Log()
    assert verify(by(key, rekor=log), recorded(key, log)) == ""
    assert verify(by(Key(), key, rekor=log), recorded(key, log)) == ""


def test_a_signature_without_the_promise_of_the_log_is_refused() -> None:
    key, log = Key(), Log()
    assert "no annotation dev.sigstore.cosign/bundle" in verify(
        by(key, rekor=log), key.sign(DIGEST, f"{NAME}:1")
    )


def test_the_promise_of_another_log_is_refused() -> None:
    key = Key()
    assert "not signed by a log" in verify(by(key, rekor=Log()), recorded(key, Log()))


def test_the_entry_of_another_signature_is_refused() -> None:
    key, log = Key(), Log()
    signature = recorded(key, log)
    again = key.sign(DIGEST, f"{NAME}:1")
    again.annotations[BUNDLE] = signature.annotations[BUNDLE]
    assert "about another signature" in verify(by(key, rekor=log), again)
    other = key.sign(DIGEST, f"{NAME}:2")
    other.annotations[SIGNATURE] = signature.annotations[SIGNATURE]
    other.annotations[BUNDLE] = signature.annotations[BUNDLE]
    assert "about another payload" in verify(by(key, rekor=log), other)


def test_the_entry_of_another_key_is_refused() -> None:
    key, log = Key(), Log()
    signature = key.sign(DIGEST, f"{NAME}:1")
    signature.annotations[BUNDLE] = log.record(signature, Key().public_pem, MOMENT)
    assert "about another key" in verify(by(key, rekor=log), signature)


def test_an_entry_that_was_changed_is_refused() -> None:
    key, log = Key(), Log()
    signature = recorded(key, log)
    bundle = json.loads(signature.annotations[BUNDLE])
    bundle["Payload"]["integratedTime"] += 1
    signature.annotations[BUNDLE] = json.dumps(bundle)
    assert "not signed by a log" in verify(by(key, rekor=log), signature)


@pytest.mark.parametrize(
    "entry",
    [
        {"integratedTime": True},
        {"integratedTime": 1.5},
        {"integratedTime": 1 << 53},
        {"integratedTime": -1},
        {"logID": 'a"b'},
        {"logID": 1},
        {"more": 1},
        {"body": "%"},
        {"body": base64.b64encode(b"{}").decode()},
        {"body": base64.b64encode(b"[]").decode()},
        {"body": base64.b64encode(b'{"kind":"hashedrekord","apiVersion":"0.0.2"}').decode()},
        {"body": base64.b64encode(b'{"kind":"rekord","apiVersion":"0.0.1"}').decode()},
        {"body": base64.b64encode(b'{"kind":"hashedrekord","apiVersion":"0.0.1"}').decode()},
    ],
)
def test_an_entry_of_another_form_is_refused(entry: dict[str, Any]) -> None:
    key, log = Key(), Log()
    assert verify(by(key, rekor=log), recorded(key, log, **entry))


@pytest.mark.parametrize("bundle", ["", "null", "{", "[" * 100_000, '{"Payload":{}}', "\ud800"])
def test_a_bundle_that_is_none_is_refused(bundle: str) -> None:
    key, log = Key(), Log()
    signature = key.sign(DIGEST, f"{NAME}:1")
    signature.annotations[BUNDLE] = bundle
    assert verify(by(key, rekor=log), signature)


def test_the_key_of_a_log_is_one_of_ecdsa() -> None:
    key, log = Key(), Log()
    log.key = Key("Ed25519")
    assert "not one of ECDSA" in verify(by(key, rekor=log), recorded(key, log))


# -- Fulcio ----------------------------------------------------------------------------------


class Keyless:
    """A signature by a certificate of Fulcio, which a test can make wrong."""

    def __init__(self, above: Authority | None = None, **options: Any) -> None:
        self.fulcio = above or Authority()
        self.log = Log()
        options = {"email": EMAIL, "issuer": ISSUER, "begin": MOMENT} | options
        key, self.pem = self.fulcio.issue(**options)
        self.signature = key.sign(DIGEST, f"{NAME}:1")
        self.signature.annotations[CERTIFICATE] = self.pem.decode()
        self.record(MOMENT + 60)

    def record(self, moment: int) -> None:
        """Replace the entry of the log."""
        self.signature.annotations[BUNDLE] = self.log.record(self.signature, self.pem, moment)

    def verdict(self, *roots: Authority) -> str:
        """Return why it is refused, "" if it is not."""
        ca = Keys(datas=(b"".join(one.pem for one in roots or (self.fulcio,)),))
        wanted = SigstoreSigned(
            EXACT, fulcio=Fulcio(ca, ISSUER, EMAIL), rekor=Keys(datas=(self.log.key.public_pem,))
        )
        return verify(wanted, self.signature)


def test_a_certificate_counts_at_the_time_of_the_entry() -> None:
    made = Keyless()  # it has expired long ago
    assert made.verdict() == ""
    made.record(MOMENT - 1)
    assert "not valid at 2023-11-14T22:13:19Z" in made.verdict()
    made.record(MOMENT + 601)
    assert "not valid at" in made.verdict()


def test_the_issuer_and_the_mail_address_are_those_of_the_policy() -> None:
    assert "another issuer: https://evil" in Keyless(issuer="https://evil").verdict()
    assert "for you@example.com, not for" in Keyless(email="you@example.com").verdict()
    assert "does not say who confirmed" in Keyless(issuer=None).verdict()


def test_the_new_extension_of_the_issuer_counts_too() -> None:
    assert Keyless(issuer=None, issuer_v2=ISSUER).verdict() == ""
    assert Keyless(issuer_v2=ISSUER).verdict() == ""
    assert "two different issuers" in Keyless(issuer_v2="https://evil").verdict()
    long = Keyless(issuer=None, issuer_v2="https://" + "x" * 200)
    assert "malformed issuer" in long.verdict()


def test_another_authority_is_refused() -> None:
    assert "not issued by an authority" in Keyless().verdict(Authority())
    assert "not issued by an authority" in Keyless().verdict(Authority("another-name"))


def test_an_entry_about_another_certificate_is_refused() -> None:
    made = Keyless()
    made.pem = made.fulcio.issue(EMAIL, ISSUER, MOMENT)[1]
    made.record(MOMENT + 60)
    assert "about another key" in made.verdict()


def test_an_intermediate_authority_may_issue() -> None:
    root = Authority("root")
    middle = Authority("middle", root)
    made = Keyless(middle)
    assert "not issued by an authority" in made.verdict(root)
    made.signature.annotations[CHAIN] = (middle.pem + root.pem).decode()
    assert made.verdict(root) == ""
    # As cosign writes it the last one is a root, and those that came along do not count.
    made.signature.annotations[CHAIN] = middle.pem.decode()
    assert made.verdict(root)
    assert made.verdict(Authority("root"))


@pytest.mark.parametrize(
    ("root", "middle", "why"),
    [
        ({"path_length": 0}, {}, "too many authorities"),
        ({}, {"ca": False}, "no authority"),
        ({}, {"ca": None}, "no authority"),
        (
            {},
            {"more": ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),)},
            "not for signing code",
        ),
        (
            {},
            {"more": ((x509.NameConstraints([x509.DNSName("a.b")], None), True),)},
            "not understood",
        ),
        (
            {},
            {
                "more": (
                    (
                        x509.KeyUsage(True, False, False, False, False, False, False, False, False),
                        True,
                    ),
                )
            },
            "may not issue",
        ),
    ],
)
def test_an_intermediate_that_may_not_issue_is_refused(
    root: dict[str, Any], middle: dict[str, Any], why: str
) -> None:
    top = Authority("root", **root)
    below = Authority("middle", top, **middle)
    made = Keyless(below)
    made.signature.annotations[CHAIN] = (below.pem + top.pem).decode()
    assert why in made.verdict(top)


def test_a_certificate_that_issued_itself_is_refused() -> None:
    made = Keyless()
    forged = Authority()  # of the same name
    made.signature.annotations[CHAIN] = (forged.pem * 40).decode()
    assert made.verdict(Authority())


def test_a_certificate_for_servers_is_refused() -> None:
    made = Keyless(usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert "not for signing code" in made.verdict()


def test_an_unknown_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert "1.2.3.4: not understood" in Keyless(more=((unknown, True),)).verdict()
    assert Keyless(more=((unknown, False),)).verdict() == ""


def test_a_certificate_over_a_weak_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lib.sigstore.hashes.SHA256", hashes.SHA224)
    fulcio = Authority()
    key, pem = fulcio.issue(EMAIL, ISSUER, MOMENT)
    monkeypatch.undo()
    made = Keyless()
    made.fulcio, made.pem = fulcio, pem
    made.signature = key.sign(DIGEST, f"{NAME}:1")
    made.signature.annotations[CERTIFICATE] = pem.decode()
    made.record(MOMENT + 60)
    assert "sha224: refused" in made.verdict()


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_certificate_that_is_none_is_refused(text: str) -> None:
    made = Keyless()
    made.signature.annotations[CERTIFICATE] = text
    assert made.verdict()


def test_a_key_of_an_unknown_curve_in_a_certificate_is_refused() -> None:
    der = x509.load_pem_x509_certificate(Authority().pem).public_bytes(Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d030107")  # P-256
    assert curve in der
    changed = x509.load_der_x509_certificate(der.replace(curve, curve[:-1] + b"\x7f"))
    with pytest.raises(RefusedError, match="malformed or unknown"):
        certificates.key_of(changed)


def test_a_time_that_no_calendar_has_is_refused() -> None:
    made = Keyless()
    made.record((1 << 53) - 1)
    assert made.verdict()


def test_two_certificates_are_refused() -> None:
    made = Keyless()
    made.signature.annotations[CERTIFICATE] *= 2
    assert "more than one certificate" in made.verdict()


# -- one's own authority ---------------------------------------------------------------------


class Own:
    """A signature by a certificate of one's own authority."""

    def __init__(self, **options: Any) -> None:
        self.root = Authority("own-root")
        self.middle = Authority("own-middle", self.root)
        options = {"lasts": timedelta(hours=1), "host": "build.example.com"} | options
        key, pem = self.middle.issue(EMAIL, None, **options)
        self.signature = key.sign(DIGEST, f"{NAME}:1")
        self.signature.annotations[CERTIFICATE] = pem.decode()

    def verdict(self, email: str = "", hostname: str = "", *, alone: bool = False) -> str:
        """Return why it is refused, "" if it is not; `alone`: the policy has the root only."""
        intermediates = None if alone else Keys(datas=(self.middle.pem,))
        pki = Pki(Keys(datas=(self.root.pem,)), intermediates, email, hostname)
        return verify(SigstoreSigned(EXACT, pki=pki), self.signature)


def test_a_certificate_of_the_own_authority_is_accepted() -> None:
    made = Own()
    assert made.verdict(EMAIL) == ""
    assert made.verdict("", "build.example.com") == ""
    assert made.verdict(EMAIL, "BUILD.example.com") == ""
    assert "not issued by an authority" in made.verdict(EMAIL, alone=True)
    made.signature.annotations[CHAIN] = (made.middle.pem + made.root.pem).decode()
    assert made.verdict(EMAIL, alone=True) == ""


def test_mail_address_and_host_have_to_be_those_of_the_policy() -> None:
    made = Own()
    assert "not for you@example.com" in made.verdict("you@example.com")
    assert "not for the host other" in made.verdict(EMAIL, "other.example.com")
    assert "does not say whom" in made.verdict()


def test_a_wildcard_stands_for_one_label() -> None:
    made = Own(host="*.example.com")
    assert made.verdict("", "build.example.com") == ""
    assert made.verdict("", "a.build.example.com")
    assert made.verdict("", "example.com")
    assert Own(host="*.com").verdict("", "example.com")


def test_a_certificate_of_the_own_authority_has_to_be_valid_now() -> None:
    past = int(time.time()) - 7200
    assert "not valid at" in Own(begin=past).verdict(EMAIL)


def test_the_own_authority_goes_without_a_log() -> None:
    made = Own()
    pki = Pki(Keys(datas=(made.root.pem,)), None, EMAIL, "")
    wanted = SigstoreSigned(EXACT, pki=pki, rekor=Keys(datas=(Key().public_pem,)))
    assert "takes no rekorPublicKey" in verify(wanted, made.signature)
