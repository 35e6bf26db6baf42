"""A policy "sigstoreSigned" from pull and load to what the store shows of the signatures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.transfer.load import load
from rootless.image.transfer.remove import remove
from rootless.image.trust.describe import describe
from tests.image.trust.test_attachments import attachment, put
from tests.lib import images
from tests.lib.image_store import Workshop, map_for
from tests.lib.sigstore import Key
from tests.lib.trust import REJECT, Site, gpg_home, payload, signed_by

pytestmark = pytest.mark.needs("docker-registry")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a site where signatures of sigstore are beside the image."""
    made = Site(tmp_path, monkeypatch)
    made.signatures_at(f"file://{made.lookaside}", **{"use-sigstore-attachments": True})
    return made


def by(site: Site, key: Key, **more: Any) -> dict[str, Any]:
    """Return the requirement that this key has signed."""
    path = site.directory / "key.pub"
    path.write_bytes(key.public_pem)
    return {"type": "sigstoreSigned", "keyPath": str(path), **more}


def refusal(workshop: Workshop, name: str) -> str:
    with pytest.raises(RlessError) as caught:
        workshop.pull(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_is_pulled_once_it_is_signed(
    workshop: Workshop, site: Site, registry_host: str
) -> None:
    name = f"{registry_host}/signed/pulled:1"
    image = images.Image([images.layer({"a": "b"})])
    images.push(image, name)
    key = Key()
    site.demand(registry_host, by(site, key))
    assert "a signature is required, and the image has none" in refusal(workshop, name)
    assert workshop.contents() == {}
    document, blobs = attachment(Key().sign(image.digest, name), key.sign(image.digest, name))
    tag = f"sha256-{image.digest[7:]}.sig"
    put(registry_host, "signed/pulled", tag, document, *blobs)
    assert workshop.pull(name).digest == image.digest
    # Without registries.d nobody looks for them.
    site.signatures_at(f"file://{site.lookaside}")
    assert "the image has none" in refusal(workshop, name)


def test_an_index_needs_a_signature_of_the_member(
    workshop: Workshop, site: Site, registry_host: str
) -> None:
    members = [
        images.Image([images.layer({"a": "x"})]),
        images.Image([images.layer({"a": "y"})], architecture="s390x"),
    ]
    name = f"{registry_host}/signed/index:1"
    index = images.push(members, name)
    key = Key()
    site.demand(registry_host, by(site, key))
    digests = (index, members[1].digest, members[0].digest)
    for digest, signed in zip((index, members[0].digest, members[0].digest), digests, strict=True):
        document, blobs = attachment(key.sign(signed, name))
        put(registry_host, "signed/index", f"sha256-{digest[7:]}.sig", document, *blobs)
        if signed != members[0].digest:
            assert refusal(workshop, name)
    assert workshop.pull(name).digest == members[0].digest


def test_signatures_that_were_seen_are_kept_with_the_image(
    workshop: Workshop, site: Site, registry_host: str
) -> None:
    name = f"{registry_host}/signed/kept:1"
    image = images.Image([images.layer({"a": "c"})])
    images.push(image, name)
    key = Key()
    signature = key.sign(image.digest, name)
    document, blobs = attachment(signature)
    put(registry_host, "signed/kept", f"sha256-{image.digest[7:]}.sig", document, *blobs)
    site.demand(registry_host, by(site, key))
    stored = workshop.pull(name)
    kept = records.get_signatures(workshop.root, stored.digest)
    assert kept == [signature.blob()]
    assert describe(kept[0]) == {
        "Type": "sigstore",
        "Name": name,
        "Digest": image.digest,
        "Created": "",
        "Creator": "",
        "Certificate": False,
        "Log": False,
    }
    remove(workshop.store, name, force=False, used=())
    assert workshop.contents() == {}


@pytest.mark.needs("gpg")
def test_both_kinds_of_signatures_can_be_demanded(
    workshop: Workshop, site: Site, registry_host: str
) -> None:
    name = f"{registry_host}/signed/both:1"
    image = images.Image([images.layer({"a": "d"})])
    images.push(image, name)
    key = Key()
    document, blobs = attachment(key.sign(image.digest, name))
    put(registry_host, "signed/both", f"sha256-{image.digest[7:]}.sig", document, *blobs)
    with gpg_home() as keys:
        keys.make("good")
        site.demand(registry_host, by(site, key), signed_by(keys.public("good")))
        assert "signedBy" in refusal(workshop, name)
        site.put(name, image.digest, [keys.sign("good", payload(image.digest, name))])
        stored = workshop.pull(name)
    kept = records.get_signatures(workshop.root, stored.digest)
    assert [describe(one)["Type"] for one in kept] == ["simple signing", "sigstore"]


# -- directories -----------------------------------------------------------------------------


def directory(tmp_path: Path, image: images.Image, *signatures: bytes) -> Path:
    made = tmp_path / "made"
    made.mkdir(exist_ok=True)
    (made / "version").write_text("Directory Transport Version: 1.1\n")
    (made / "manifest.json").write_bytes(image.manifest_data)
    for digest, data in image.all_blobs().items():
        (made / digest[7:]).write_bytes(data)
    for number, blob in enumerate(signatures, 1):
        (made / f"signature-{number}").write_bytes(blob)
    return made


def verdict(workshop: Workshop, path: Path) -> str:
    """Return why a directory is not loaded, "" if it is."""
    try:
        list(
            load(
                os.fspath(path),
                workshop.store,
                idmap_for=map_for,
                progress=Progress(quiet=True),
            )
        )
    except RlessError as error:
        return error.message
    return ""


def test_the_signatures_of_a_directory_are_asked_for(
    workshop: Workshop, site: Site, tmp_path: Path
) -> None:
    image = images.Image([images.layer({"a": "e"})])
    key, name = Key(), "registry.example.com/app:1"
    exact = {"signedIdentity": {"type": "exactReference", "dockerReference": name}}
    made = directory(tmp_path, image)
    site.demand(str(tmp_path.resolve()), by(site, key, **exact), transport="dir")
    assert "the image has none" in verdict(workshop, made)
    directory(tmp_path, image, Key().sign(image.digest, name).blob())
    assert "not signed by the key" in verdict(workshop, made)
    directory(tmp_path, image, b"\0strange\n")
    assert "of no known format" in verdict(workshop, made)
    good = key.sign(image.digest, name)
    directory(tmp_path, image, Key().sign(image.digest, name).blob(), good.blob())
    assert verdict(workshop, made) == ""
    assert len(records.get_signatures(workshop.root, image.digest)) == 2
    # A directory has no name that a signature could be compared with.
    site.demand(str(tmp_path.resolve()), by(site, key), transport="dir")
    assert "for another name" in verdict(workshop, made)
    site.demand(str(tmp_path.resolve()), REJECT, transport="dir")
    assert "no image is accepted" in verdict(workshop, made)


@pytest.mark.needs("skopeo", "gpg")
def test_skopeo_gives_the_same_verdict_of_a_directory(
    workshop: Workshop, site: Site, tmp_path: Path
) -> None:
    image = images.Image([images.layer({"a": "f"})])
    name = "registry.example.com/app:1"
    exact = {"signedIdentity": {"type": "exactReference", "dockerReference": name}}
    with gpg_home() as keys:
        keys.make("good")
        good = keys.sign("good", payload(image.digest, name))
        other = keys.sign("good", payload(f"sha256:{'1' * 64}", name))
        for more, signatures, accepted in (
            (exact, (), False),
            (exact, (other,), False),
            (exact, (other, good), True),
            ({}, (other, good), False),
        ):
            wanted = signed_by(keys.public("good"), **more)
            site.demand(str(tmp_path.resolve()), wanted, transport="dir")
            made = directory(tmp_path, image, *signatures)
            assert (verdict(workshop, made) == "") == accepted
            assert (site.skopeo(f"dir:{made}") == "") == accepted
