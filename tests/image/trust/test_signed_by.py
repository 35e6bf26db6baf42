"""signedBy: the verdict of rless is skopeo's, for a real registry and real signatures.

Security classes 78 to 81.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rootless.image.model import limits
from rootless.image.trust import gpg, lookaside
from tests.lib import images
from tests.lib.trust import (
    ACCEPT,
    REJECT,
    Keys,
    Site,
    lookaside_server,
    payload,
    signed_by,
)

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "gpg")

OTHER = "sha256:" + "5" * 64


@pytest.fixture(scope="module")
def image() -> images.Image:
    return images.Image([images.layer({"a": "b"})], {})


@pytest.fixture(scope="module")
def host(registry_host: str, image: images.Image) -> str:
    for name in ("trust/app:1", "trust/app:2", "trust/app:other", "trust/twin:1"):
        images.push(image, f"{registry_host}/{name}")
    return registry_host


def judged(site: Site, name: str) -> str:
    """Return the verdict that both have: "" or why rless refuses."""
    why = site.rless(name)
    theirs = site.skopeo(name)
    assert bool(theirs) == bool(why), (why, theirs)
    return why


# -- requirements ----------------------------------------------------------------------------


def test_a_signature_by_the_key_of_the_policy_is_accepted(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    site.demand(host, signed_by(keys.public("good")))
    assert "a signature is required, and the image has none" in judged(site, name)
    site.put(name, image.digest, [keys.sign("good", payload(image.digest, name))])
    assert judged(site, name) == ""
    with lookaside_server(site.lookaside) as url:
        site.signatures_at(url)
        assert judged(site, name) == ""
        site.signatures_at(f"{url}/elsewhere/")
        assert "has none" in judged(site, name)


@pytest.mark.parametrize(
    ("requirements", "accepted"),
    [
        ([ACCEPT], True),
        ([REJECT], False),
        ([ACCEPT, REJECT], False),
        (["good"], True),
        (["other"], False),
        (["good", "other"], False),
        (["good", ACCEPT], True),
        (["good", REJECT], False),
        ([("other", "good")], True),
        ([("other", "expired")], False),
        ([()], False),
        (["armored"], True),
        (["data"], True),
        (["missing"], False),
        (["junk"], False),
        (["otherType"], False),
        ([{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}], False),
    ],
    ids=str,
)
def test_all_requirements_have_to_be_met(
    site: Site, keys: Keys, host: str, image: images.Image, requirements: list[Any], accepted: bool
) -> None:
    (site.directory / "junk").write_text("no key")

    def written(one: Any) -> Any:
        if isinstance(one, dict):
            return one
        if isinstance(one, tuple):
            return signed_by(*(keys.public(name) for name in one)) | (
                {} if one else {"keyPaths": []}
            )
        made = {
            "armored": signed_by(keys.public("good", "--armor")),
            "missing": signed_by(Path("/none")),
            "junk": signed_by(site.directory / "junk"),
            "otherType": signed_by(keys.public("good")) | {"keyType": "signedByGPGKeys"},
            "data": {
                "type": "signedBy",
                "keyType": "GPGKeys",
                "keyData": images.base64.b64encode(keys.public("good").read_bytes()).decode(),
            },
        }
        return made.get(one) or signed_by(keys.public(one))

    name = f"{host}/trust/app:1"
    site.put(name, image.digest, [keys.sign("good", payload(image.digest, name))])
    site.demand(host, *map(written, requirements))
    assert (judged(site, name) == "") == accepted


@pytest.mark.parametrize(
    ("identity", "asked", "signed", "accepted"),
    [
        (None, "app:1", "app:1", True),
        (None, "app:2", "app:1", False),
        (None, "app@", "app:1", True),
        (None, "twin@", "app:1", False),
        ({"type": "matchExact"}, "app:1", "app:1", True),
        ({"type": "matchExact"}, "app@", "app:1", False),
        ({"type": "matchRepository"}, "app:2", "app:1", True),
        ({"type": "matchRepository"}, "twin:1", "app:1", False),
        (
            {"type": "exactReference", "dockerReference": "HOST/trust/app:1"},
            "twin:1",
            "app:1",
            True,
        ),
        (
            {"type": "exactReference", "dockerReference": "HOST/trust/app:1"},
            "app:2",
            "app:2",
            False,
        ),
        (
            {"type": "exactRepository", "dockerRepository": "HOST/trust/app"},
            "twin:1",
            "app:2",
            True,
        ),
        (
            {
                "type": "remapIdentity",
                "prefix": "HOST/trust/twin",
                "signedPrefix": "HOST/trust/app",
            },
            "twin:1",
            "app:1",
            True,
        ),
        (
            {
                "type": "remapIdentity",
                "prefix": "HOST/trust/twin",
                "signedPrefix": "HOST/trust/app",
            },
            "twin:1",
            "twin:1",
            False,
        ),
        (
            {"type": "remapIdentity", "prefix": "HOST/trust/tw", "signedPrefix": "HOST/trust/app"},
            "twin:1",
            "twin:1",
            True,
        ),
    ],
    ids=str,
)
def test_the_signed_name_has_to_stand_for_the_asked(
    site: Site,
    keys: Keys,
    host: str,
    image: images.Image,
    identity: dict[str, str] | None,
    asked: str,
    signed: str,
    accepted: bool,
) -> None:
    name = f"{host}/trust/{asked}" + (image.digest if asked.endswith("@") else "")
    site.put(
        name, image.digest, [keys.sign("good", payload(image.digest, f"{host}/trust/{signed}"))]
    )
    more: dict[str, Any] = {}
    if identity is not None:
        written = {key: value.replace("HOST", host) for key, value in identity.items()}
        more["signedIdentity"] = written
    site.demand(host, signed_by(keys.public("good"), **more))
    assert (judged(site, name) == "") == accepted


# -- attacks ---------------------------------------------------------------------------------


def test_one_good_signature_among_bad_ones_is_enough(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    document = payload(image.digest, name)
    site.demand(host, signed_by(keys.public("good")))
    blobs = [keys.sign("other", document), b"\x88junk", keys.sign("good", document)]
    site.put(name, image.digest, blobs)
    assert judged(site, name) == ""
    site.put(name, image.digest, [*blobs[:2], b"\x88more"])
    why = judged(site, name)
    assert "by a key that the policy does not name; " in why and why.count("; ") < 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d, n: payload(OTHER, n), f"is for another image: {OTHER}"),
        (lambda d, n: payload(d, n.replace(":1", ":2")), "is for another name: 127.0.0.1"),
        (lambda d, n: payload(d, n, type="cosign container image signature"), "is not a 'atomic"),
        (lambda d, n: payload(d, n, more=1), "critical does not have the fields"),
        (lambda d, n: payload(d, n, image={"docker-manifest-digest": d, "x": 1}), "critical.image"),
        (lambda d, n: payload(d, n, identity={}), "critical.identity"),
        (lambda d, n: payload(d, 5), "bad digest or name"),
        (lambda d, n: payload(d, n)[:-1] + b', "critical": {}}', "a field is there twice"),
        (lambda d, n: payload(d, n)[:-1] + b', "more": {}}', "the payload does not have"),
        (lambda d, n: payload(d, n)[:-9], "malformed"),
        (lambda d, n: payload(d, n) + b"x", "malformed"),
        (lambda d, n: b"[" * 9000, "malformed"),
        (lambda d, n: payload(d, n).replace(b'"test"', b"5"), "optional.creator"),
        (lambda d, n: payload(d, n).replace(b": 1}", b": 1.5}"), "optional.timestamp"),
    ],
)
def test_a_payload_that_says_something_else_is_refused(
    site: Site, keys: Keys, host: str, image: images.Image, change: Any, why: str
) -> None:
    name = f"{host}/trust/app:1"
    site.demand(host, signed_by(keys.public("good")))
    site.put(name, image.digest, [keys.sign("good", change(image.digest, name))])
    assert why in judged(site, name)


def test_expired_and_revoked_keys_are_refused(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    document = payload(image.digest, name)
    old = keys.sign("expired", document, "--faked-system-time", "20200101T120000")
    site.put(name, image.digest, [old])
    site.demand(host, signed_by(keys.public("expired")))
    assert "the key of the signature has expired" in judged(site, name)
    site.put(name, image.digest, [keys.sign("revoked", document)])
    site.demand(host, signed_by(keys.public("revoked")))
    assert judged(site, name) == ""
    early = site.directory / "early.pub"
    early.write_bytes(keys.public("revoked").read_bytes())
    keys.revoke("revoked")
    site.demand(host, signed_by(keys.public("revoked")))
    assert "the key of the signature was revoked" in judged(site, name)
    # The revocation counts too where another file still has the key without it.
    site.demand(host, signed_by(early, keys.public("revoked")))
    assert "the key of the signature was revoked" in judged(site, name)


def test_an_expired_signature_is_refused(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"

    message = keys.sign("good", payload(image.digest, name), "--default-sig-expire", "seconds=1")
    site.put(name, image.digest, [message])
    site.demand(host, signed_by(keys.public("good")))
    # Not at once: it is good for a second.
    for _ in range(100):
        if site.rless(name):
            break
    assert "the signature has expired" in judged(site, name)


def test_a_weak_hash_is_refused_which_skopeo_accepts(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    rsa = keys.fingerprints.get("rsa")
    if rsa is None:
        keys.gpg("--quick-gen-key", "rsa@example.org", "rsa2048", "sign", "never")
        listed = keys.gpg("--with-colons", "--list-keys", "rsa@example.org").decode().splitlines()
        keys.fingerprints["rsa"] = next(x.split(":")[9] for x in listed if x.startswith("fpr:"))
    site.demand(host, signed_by(keys.public("rsa")))
    document = payload(image.digest, name)
    site.put(name, image.digest, [keys.sign("rsa", document, "--digest-algo", "SHA1")])
    assert "weak hash, SHA-1" in site.rless(name)
    assert site.skopeo(name) == ""
    site.put(name, image.digest, [keys.sign("rsa", document, "--digest-algo", "SHA512")])
    assert judged(site, name) == ""


def test_a_signature_by_a_subkey_is_refused(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    site.demand(host, signed_by(keys.public("owner")))
    site.put(name, image.digest, [keys.sign("owner", payload(image.digest, name))])
    assert "by a subkey" in judged(site, name)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda message: message[:-20], "not one document with one good"),
        (lambda message: message[:5] + b"\xff" + message[6:], "OpenPGP"),
        (lambda message: b"", "no OpenPGP message"),
        (lambda message: b"\x00strange-format\n{}", "of no known format"),
        (lambda message: b"-----BEGIN PGP MESSAGE-----\n", "no OpenPGP message"),
        (lambda message: b"\x88" * (lookaside.SIGNATURE_BYTES + 1), "is larger than 1048576"),
    ],
)
def test_a_malformed_signature_is_refused(
    site: Site, keys: Keys, host: str, image: images.Image, make: Any, why: str
) -> None:
    name = f"{host}/trust/app:1"
    site.demand(host, signed_by(keys.public("good")))
    message = keys.sign("good", payload(image.digest, name))
    site.put(name, image.digest, [make(message)])
    assert why in judged(site, name)


def test_a_document_that_unpacks_without_end_is_cut_off(keys: Keys) -> None:
    message = keys.sign("good", b"\0" * (64 << 20))
    assert len(message) < 1 << 20
    with pytest.raises(gpg.RefusedError, match="not one document with one good"):
        gpg.verify(message, [keys.public("good").read_bytes()])


def test_signatures_without_end_are_refused(
    site: Site, keys: Keys, host: str, image: images.Image
) -> None:
    name = f"{host}/trust/app:1"
    site.demand(host, signed_by(keys.public("good")))
    site.put(name, image.digest, [b"\x88"] * (limits.SIGNATURES + 1))
    assert "more than 128 signatures of one image" in site.rless(name)


def test_an_index_needs_a_signature_of_the_member(site: Site, keys: Keys, host: str) -> None:
    members = [
        images.Image([images.layer({"a": "x"})]),
        images.Image([images.layer({"a": "y"})], architecture="s390x"),
    ]
    name = f"{host}/trust/index:1"
    index = images.push(members, name)
    site.demand(host, signed_by(keys.public("good")))
    site.put(name, index, [keys.sign("good", payload(index, name))])
    assert "the image has none" in judged(site, name)
    member = members[0].digest
    site.put(name, member, [keys.sign("good", payload(index, name))])
    assert f"for another image: {index}" in judged(site, name)
    site.put(name, member, [keys.sign("good", payload(member, name))])
    assert judged(site, name) == ""


def test_a_policy_that_is_not_right_refuses(site: Site, host: str) -> None:
    path = site.demand(host, ACCEPT)
    path.write_text(json.dumps({"default": [ACCEPT], "transport": {}}))
    assert "unknown field 'transport'" in judged(site, f"{host}/trust/app:1")
