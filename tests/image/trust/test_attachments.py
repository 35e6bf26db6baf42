"""Signatures of sigstore in a registry: written and read; skopeo gives the same verdict of each.

Security class 82.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.reference import parse
from rootless.image.model.registries_conf import Location
from rootless.image.registry.endpoint import Endpoint
from rootless.image.registry.http import Client
from rootless.image.trust import attachments, policy, sigstore_key, verdict
from rootless.image.trust.identity import Named, subject_of
from rootless.image.trust.signature import SigstoreSignature
from tests.lib import images
from tests.lib.registry_servers import Fault, FaultyProxy, manifest
from tests.lib.sigstore import (
    BUNDLE,
    CERTIFICATE,
    CHAIN,
    MEDIA_TYPE,
    SIGNATURE,
    Authority,
    Key,
    Log,
)

pytestmark = pytest.mark.needs("docker-registry")
_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"


@contextlib.contextmanager
def endpoint(host: str, repository: str) -> Iterator[Endpoint]:
    client = Client(frozenset())
    try:
        yield Endpoint(client, Location(host, repository), repository, "pull,push")
    finally:
        client.close()


def pushed(host: str, repository: str) -> str:
    """Push a small image under the tag 1; return its digest."""
    image = images.Image([images.layer({"name": repository})])
    return images.push(image, f"{host}/{repository}:1")


def put(host: str, repository: str, tag: str, document: dict[str, Any], *blobs: bytes) -> str:
    """Push an image that is made of these blobs; return the digest of its manifest."""
    made = images.Image([])
    made.all_blobs = lambda: {images.digest(one): one for one in blobs}  # type: ignore[method-assign]
    made.manifest = document
    images.push(made, f"{host}/{repository}:{tag}")
    return made.digest


def attachment(*signatures: SigstoreSignature, **more: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Return the manifest of an image that holds signatures, and its blobs."""
    config = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": images.descriptor(config, images.OCI_CONFIG),
        "layers": [
            images.descriptor(one.payload, one.mime_type, annotations=one.annotations)
            for one in signatures
        ],
        **more,
    }
    return document, [config, *(one.payload for one in signatures)]


# -- written and read ------------------------------------------------------------------------


def test_what_is_written_is_read(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/written")
    key, name = Key(), f"{registry_host}/sig/written:1"
    first, second = key.sign(digest, name), Key().sign(digest, name)
    with endpoint(registry_host, "sig/written") as place:
        assert attachments.read(place, digest) == []
        attachments.write(place, digest, [first])
        attachments.write(place, digest, [second, first])
        found = attachments.read(place, digest)
    assert [one.blob() for one in found] == [first.blob(), second.blob()]
    data, kind = manifest(registry_host, "sig/written", f"sha256-{digest[7:]}.sig")
    assert kind == images.OCI_MANIFEST
    layers = json.loads(data)["layers"]
    assert [layer["mediaType"] for layer in layers] == [MEDIA_TYPE] * 2
    assert layers[0]["annotations"] == first.annotations


def test_other_attachments_are_left_alone(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/others")
    envelope = SigstoreSignature("application/vnd.dsse.envelope.v1+json", b"{}", {"a": "b"})
    mine = Key().sign(digest, "x/y:1")
    document, blobs = attachment(envelope)
    put(registry_host, "sig/others", attachments.tag_of(digest), document, *blobs)
    with endpoint(registry_host, "sig/others") as place:
        attachments.write(place, digest, [mine])
        assert [one.blob() for one in attachments.read(place, digest)] == [mine.blob()]
    data, _ = manifest(registry_host, "sig/others", attachments.tag_of(digest))
    assert json.loads(data)["layers"][0]["annotations"] == {"a": "b"}


def test_a_payload_that_does_not_have_its_digest_is_refused(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/damaged")
    signature = Key().sign(digest, "x/y:1")
    with endpoint(registry_host, "sig/damaged") as place:
        attachments.write(place, digest, [signature])
    payload = images.digest(signature.payload)
    changed = signature.payload.replace(b"1", b"2")
    with FaultyProxy(registry_host) as proxy, endpoint(proxy.host, "sig/damaged") as place:
        proxy.faults.append(Fault("GET", f"/blobs/{payload}", status=200, body=changed))
        with pytest.raises(RlessError, match="does not have the digest"):
            attachments.read(place, digest)


@pytest.mark.parametrize(
    "layers",
    [
        None,
        "x",
        [1],
        [{"mediaType": MEDIA_TYPE, "digest": "sha256:../../x", "size": 1}],
        [images.descriptor(b"x", MEDIA_TYPE, annotations=[1])],
        [images.descriptor(b"x", MEDIA_TYPE, annotations={"a": 1})],
        [images.descriptor(b"x", MEDIA_TYPE) | {"size": -1}],
        [images.descriptor(b"x", MEDIA_TYPE) | {"size": limits.SIGNATURES_BYTES + 1}],
        [images.descriptor(b"x", MEDIA_TYPE) | {"size": limits.SIGNATURES_BYTES // 2}] * 3,
        [images.descriptor(b"", MEDIA_TYPE)] * (limits.SIGNATURES * 2),
    ],
)
def test_malformed_and_huge_attachments_are_refused(registry_host: str, layers: object) -> None:
    document = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
    digest = f"sha256:{'5' * 64}"
    with FaultyProxy(registry_host) as proxy, endpoint(proxy.host, "sig/malformed") as place:
        proxy.faults.append(Fault("GET", ".sig", status=200, body=document))
        with pytest.raises(RlessError) as caught:
            attachments.read(place, digest)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_too_large_is_refused(registry_host: str) -> None:
    with FaultyProxy(registry_host) as proxy, endpoint(proxy.host, "sig/large") as place:
        body = b" " * (limits.JSON_BYTES + 1)
        proxy.faults.append(Fault("GET", ".sig", status=200, body=body))
        with pytest.raises(RlessError):
            attachments.read(place, f"sha256:{'6' * 64}")


# -- referrers -------------------------------------------------------------------------------


def referring(host: str, repository: str, digest: str, key: Key, subject: str) -> dict[str, Any]:
    """Push an image that holds a signature, by digest alone; return its descriptor."""
    signature = key.sign(digest, f"{host}/{repository}:1")
    about = {"mediaType": images.OCI_MANIFEST, "digest": subject, "size": 1}
    document, blobs = attachment(signature, subject=about, artifactType=_ARTIFACT)
    put(host, repository, "unused", document, *blobs)
    data = json.dumps(document).encode()
    return images.descriptor(data, images.OCI_MANIFEST, artifactType=_ARTIFACT)


def index_of(*entries: dict[str, Any]) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries}
    ).encode()


def test_referrers_are_read_from_the_api(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/api")
    key = Key()
    entry = referring(registry_host, "sig/api", digest, key, digest)
    other = images.descriptor(b"{}", images.OCI_MANIFEST, artifactType="application/spdx+json")
    with FaultyProxy(registry_host) as proxy, endpoint(proxy.host, "sig/api") as place:
        answer = Fault("GET", f"/referrers/{digest}", status=200, body=index_of(other, entry))
        proxy.faults.append(answer)
        found = attachments.read(place, digest)
        assert proxy.count("GET", f"sha256-{digest[7:]} ") == 0
        assert "artifactType=application%2Fvnd.dev.cosign" in str(proxy.requests)
    assert len(found) == 1


def test_referrers_are_read_from_the_index_under_a_tag(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/fallback")
    key = Key()
    entry = referring(registry_host, "sig/fallback", digest, key, digest)
    put_index(registry_host, "sig/fallback", f"sha256-{digest[7:]}", index_of(entry))
    tagged = key.sign(digest, f"{registry_host}/sig/fallback:1")
    with endpoint(registry_host, "sig/fallback") as place:
        assert len(attachments.read(place, digest)) == 1
        attachments.write(place, digest, [tagged])
        assert len(attachments.read(place, digest)) == 2


def put_index(host: str, repository: str, tag: str, data: bytes) -> None:
    import http.client

    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as line:
        headers = {"Content-Type": images.OCI_INDEX}
        line.request("PUT", f"/v2/{repository}/manifests/{tag}", data, headers)
        assert line.getresponse().status == 201


def test_a_referrer_of_another_image_is_left_out(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/subject")
    entry = referring(registry_host, "sig/subject", digest, Key(), f"sha256:{'7' * 64}")
    put_index(registry_host, "sig/subject", f"sha256-{digest[7:]}", index_of(entry))
    with endpoint(registry_host, "sig/subject") as place:
        assert attachments.read(place, digest) == []


def test_referrers_that_cannot_be_read_leave_the_tag(registry_host: str) -> None:
    digest = pushed(registry_host, "sig/broken")
    mine = Key().sign(digest, "x/y:1")
    with endpoint(registry_host, "sig/broken") as place:
        attachments.write(place, digest, [mine])
    with FaultyProxy(registry_host) as proxy, endpoint(proxy.host, "sig/broken") as place:
        for body in (b"{", b'{"manifests":1}'):
            proxy.faults.append(Fault("GET", "/referrers/", status=200, body=body))
            assert len(attachments.read(place, digest)) == 1
        proxy.faults.append(Fault("GET", "/referrers/", status=403))
        assert len(attachments.read(place, digest)) == 1


# -- the same verdict as skopeo --------------------------------------------------------------


class Judges:
    """A repository, a policy for it, and what rless and skopeo say of it."""

    def __init__(self, host: str, repository: str, directory: Path) -> None:
        self.name = f"{host}/{repository}"
        self.host, self.repository = host, repository
        self.directory = directory
        self.digest = pushed(host, repository)
        self.policy = directory / "policy.json"
        registries = directory / "registries.d"
        registries.mkdir()
        Path(registries, "all.yaml").write_text("default-docker: {use-sigstore-attachments: true}")

    def allow(self, **requirement: Any) -> None:
        """Write the policy: only this."""
        wanted = {"type": "sigstoreSigned", **requirement}
        self.policy.write_text(json.dumps({"default": [wanted]}))

    def sign(self, *signatures: SigstoreSignature) -> None:
        """Put signatures beside the image, whatever they are."""
        document, blobs = attachment(*signatures)
        tag = attachments.tag_of(self.digest)
        put(self.host, self.repository, tag, document, *blobs)

    def rless(self) -> bool:
        """Tell whether rless accepts the image."""
        found = policy.load(str(self.policy))
        assert found is not None
        subject = subject_of(parse(f"{self.name}:1"))
        subject.digest = self.digest
        with endpoint(self.host, self.repository) as place:
            judged = verdict.judge(
                found, found.find(subject), subject, lambda: attachments.read(place, self.digest)
            )
        return judged.is_accepted

    def agrees(self, accepted: bool) -> bool:
        """Tell whether skopeo gives this verdict; that of Debian 12 gives none.

        Its sigstore is disabled, and it does not know Fulcio and Rekor.
        """
        tool = (
            "skopeo",
            "--policy",
            self.policy,
            "--registries.d",
            f"{self.directory}/registries.d",
        )
        names = (f"docker://{self.name}:1", f"dir:{self.directory}/copied")
        done = subprocess.run(
            (*tool, "copy", "-q", "--src-tls-verify=false", *names), capture_output=True, text=True
        )
        if "sigstore disabled" in done.stderr or "Unknown key" in done.stderr:
            return True
        refused = "Source image rejected" in done.stderr
        assert refused or done.returncode == 0, done.stderr
        return refused != accepted


@pytest.fixture
def judges(registry_host: str, tmp_path: Path) -> Judges:
    return Judges(registry_host, f"sig/{tmp_path.name}".lower().replace("_", "-"), tmp_path)


def _other_digest(judges: Judges, key: Key) -> SigstoreSignature:
    return key.sign(f"sha256:{'9' * 64}", f"{judges.name}:1")


def _cut(judges: Judges, key: Key) -> SigstoreSignature:
    signature = key.sign(judges.digest, f"{judges.name}:1")
    signature.annotations[SIGNATURE] = signature.annotations[SIGNATURE][:-8]
    return signature


def _changed(judges: Judges, key: Key) -> SigstoreSignature:
    signature = key.sign(judges.digest, f"{judges.name}:1")
    return SigstoreSignature(MEDIA_TYPE, signature.payload + b" ", signature.annotations)


def _without(judges: Judges, key: Key) -> SigstoreSignature:
    return SigstoreSignature(MEDIA_TYPE, key.sign(judges.digest, f"{judges.name}:1").payload, {})


def _twice(judges: Judges, key: Key) -> SigstoreSignature:
    text = key.sign(judges.digest, f"{judges.name}:1").payload
    start = text.index(b'"type"')
    return key.sign_bytes(text[:start] + b'"type": "x", ' + text[start:])


def _other_kind(judges: Judges, key: Key) -> SigstoreSignature:
    signature = key.sign(judges.digest, f"{judges.name}:1")
    signature.mime_type = "application/vnd.dsse.envelope.v1+json"
    return signature


_CASES: dict[str, tuple[bool, Callable[[Judges, Key], SigstoreSignature]]] = {
    "good": (True, lambda on, key: key.sign(on.digest, f"{on.name}:1")),
    "a bundle that is not asked for": (
        True,
        lambda on, key: _annotated(key.sign(on.digest, f"{on.name}:1"), BUNDLE, "{"),
    ),
    "wrong key": (False, lambda on, key: Key().sign(on.digest, f"{on.name}:1")),
    "another digest": (False, _other_digest),
    "another tag": (False, lambda on, key: key.sign(on.digest, f"{on.name}:2")),
    "no tag, as cosign": (False, lambda on, key: key.sign(on.digest, on.name)),
    "another repository": (False, lambda on, key: key.sign(on.digest, f"{on.host}/other:1")),
    "no name": (False, lambda on, key: key.sign(on.digest, "")),
    "cut": (False, _cut),
    "changed": (False, _changed),
    "no signature": (False, _without),
    "a field twice": (False, _twice),
    "another kind": (False, _other_kind),
    "another type": (
        False,
        lambda on, key: key.sign(on.digest, f"{on.name}:1", type="atomic container signature"),
    ),
    "an unknown critical field": (
        False,
        lambda on, key: key.sign(on.digest, f"{on.name}:1", more=1),
    ),
    "not JSON": (False, lambda on, key: key.sign_bytes(b"{")),
}


def _annotated(signature: SigstoreSignature, key: str, value: str) -> SigstoreSignature:
    signature.annotations[key] = value
    return signature


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("case", _CASES)
def test_skopeo_gives_the_same_verdict(judges: Judges, case: str) -> None:
    accepted, make = _CASES[case]
    key = Key()
    Path(judges.directory, "key.pub").write_bytes(key.public_pem)
    judges.allow(keyPath=f"{judges.directory}/key.pub")
    judges.sign(make(judges, key))
    assert judges.rless() == accepted
    assert judges.agrees(accepted)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("kind", ["RSA", "Ed25519", "SECP384R1", "SECP521R1"])
def test_skopeo_takes_the_same_kinds_of_keys(judges: Judges, kind: str) -> None:
    key = Key(kind)
    Path(judges.directory, "key.pub").write_bytes(key.public_pem)
    judges.allow(keyPath=f"{judges.directory}/key.pub")
    judges.sign(key.sign(judges.digest, f"{judges.name}:1"))
    assert judges.rless()
    assert judges.agrees(True)


@pytest.mark.needs("skopeo")
def test_a_signature_beside_others_is_enough(judges: Judges) -> None:
    key = Key()
    Path(judges.directory, "key.pub").write_bytes(key.public_pem)
    judges.allow(keyPath=f"{judges.directory}/key.pub", signedIdentity={"type": "matchRepository"})
    judges.sign(
        Key().sign(judges.digest, judges.name),
        _cut(judges, key),
        key.sign(judges.digest, judges.name),
    )
    assert judges.rless()
    assert judges.agrees(True)


@pytest.mark.needs("skopeo")
def test_an_image_without_a_signature_is_refused(judges: Judges) -> None:
    Path(judges.directory, "key.pub").write_bytes(Key().public_pem)
    judges.allow(keyPath=f"{judges.directory}/key.pub")
    assert not judges.rless()
    assert judges.agrees(False)


_EMAIL, _ISSUER = "me@example.com", "https://issuer.example.com"
_MOMENT = 1_700_000_000


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize(
    ("accepted", "changed"),
    [
        (True, {}),
        (False, {"email": "you@example.com"}),
        (False, {"issuer": "https://other.example.com"}),
        (False, {"issuer": None}),
        (True, {"issuer": None, "issuer_v2": _ISSUER}),
        (False, {"issuer_v2": "https://other.example.com"}),
        (False, {"begin": _MOMENT + 1}),
        (False, {"begin": _MOMENT - 601}),
        (False, {"usage": ExtendedKeyUsageOID.SERVER_AUTH}),
    ],
)
def test_skopeo_gives_the_same_verdict_of_certificates(
    judges: Judges, accepted: bool, changed: dict[str, Any]
) -> None:
    root, log = Authority("root"), Log()
    middle = Authority("middle", root)
    options = {"email": _EMAIL, "issuer": _ISSUER, "begin": _MOMENT} | changed
    key, pem = middle.issue(**options)
    signature = key.sign(judges.digest, f"{judges.name}:1")
    signature.annotations[CERTIFICATE] = pem.decode()
    signature.annotations[CHAIN] = (middle.pem + root.pem).decode()
    signature.annotations[BUNDLE] = log.record(signature, pem, _MOMENT)
    judges.sign(signature)
    judges.allow(
        fulcio={"caData": _base64(root.pem), "oidcIssuer": _ISSUER, "subjectEmail": _EMAIL},
        rekorPublicKeyData=_base64(log.key.public_pem),
    )
    assert judges.rless() == accepted
    assert judges.agrees(accepted)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("case", ["good", "none", "another log", "another key", "replayed"])
def test_skopeo_gives_the_same_verdict_of_the_log(judges: Judges, case: str) -> None:
    key, log = Key(), Log()
    signature = key.sign(judges.digest, f"{judges.name}:1")
    by = Key() if case == "another key" else key
    entry = (Log() if case == "another log" else log).record(signature, by.public_pem, _MOMENT)
    if case == "replayed":
        signature = key.sign(judges.digest, f"{judges.name}:1")
    if case != "none":
        signature.annotations[BUNDLE] = entry
    judges.sign(signature)
    judges.allow(keyData=_base64(key.public_pem), rekorPublicKeyData=_base64(log.key.public_pem))
    accepted = case == "good"
    assert judges.rless() == accepted
    assert judges.agrees(accepted)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- signing ---------------------------------------------------------------------------------


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_skopeo_accepts_what_is_signed_here(judges: Judges, kind: str) -> None:
    key = Key(kind)
    path = judges.directory / "key.pem"
    path.write_bytes(key.private_pem(b"secret"))
    Path(judges.directory, "key.pub").write_bytes(key.public_pem)
    judges.allow(keyPath=f"{judges.directory}/key.pub")
    private = sigstore_key.load(str(path), "secret")
    signature = sigstore_key.sign(judges.digest, Named(judges.name, "1", None), private)
    with endpoint(judges.host, judges.repository) as place:
        attachments.write(place, judges.digest, [signature])
    assert judges.rless()
    assert judges.agrees(True)


@pytest.mark.needs("skopeo")
def test_what_skopeo_signs_is_accepted_here(judges: Judges) -> None:
    key = Key()
    directory = judges.directory
    Path(directory, "key.pub").write_bytes(key.public_pem)
    Path(directory, "cosign.key").write_bytes(key.cosign_pem(b"secret"))
    Path(directory, "passphrase").write_text("secret\n")
    judges.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    tool = ("skopeo", "--policy", judges.policy, "--registries.d", f"{directory}/registries.d")
    options = ("--src-tls-verify=false", "--dest-tls-verify=false")
    signing = ("--sign-by-sigstore-private-key", f"{directory}/cosign.key")
    secret = ("--sign-passphrase-file", f"{directory}/passphrase")
    names = (f"docker://{judges.name}:1",) * 2
    done = subprocess.run(
        (*tool, "copy", "-q", *options, *signing, *secret, *names), capture_output=True, text=True
    )
    judges.allow(keyPath=f"{directory}/key.pub")
    if "sigstore disabled" in done.stderr:
        assert not judges.rless()
    else:
        assert done.returncode == 0, done.stderr
        assert judges.rless()
    # One more beside it.
    private = sigstore_key.load(f"{directory}/cosign.key", "secret")
    again = sigstore_key.sign(judges.digest, Named(judges.name, "1", None), private)
    with endpoint(judges.host, judges.repository) as place:
        attachments.write(place, judges.digest, [again])
    assert judges.rless()
    assert judges.agrees(True)
