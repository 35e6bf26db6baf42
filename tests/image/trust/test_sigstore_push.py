"""Signing at push: by a key of sigstore, and with the signatures that an image came with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.images import trust
from rootless.errors import RlessError
from rootless.image.model.packing import Packing
from rootless.image.model.reference import parse
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.store.staging import Staging
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer.push import push
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import manifest, tags
from tests.lib.sigstore import Key
from tests.lib.trust import Keys, Site, payload, signed_by

__all__ = ["own_rless", "shared_product"]
pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")


@pytest.fixture
def attached(site: Site) -> Site:
    """Return a site where signatures of sigstore are beside the image."""
    site.signatures_at(f"file://{site.lookaside}", **{"use-sigstore-attachments": True})
    return site


def demanded(site: Site, scope: str, key: Key) -> None:
    """Accept only what this key has signed."""
    path = site.directory / "key.pub"
    path.write_bytes(key.public_pem)
    site.demand(scope, {"type": "sigstoreSigned", "keyPath": str(path)})


def private(site: Site, key: Key, passphrase: bytes | None = None) -> str:
    path = site.directory / "cosign.key"
    path.write_bytes(key.private_pem() if passphrase is None else key.cosign_pem(passphrase))
    return str(path)


def send(workshop: Workshop, image: StoredImage, name: str, **options: Any) -> list[str]:
    """Push; return the lines that were printed."""
    reader, writer = os.pipe()
    try:
        with Staging(workshop.root) as staging:
            push(image, parse(name), workshop.store, staging.path, Progress(writer), **options)
    finally:
        os.close(writer)
        with open(reader) as file:
            lines = file.read().splitlines()
    return lines


def unpacked(workshop: Workshop, text: str) -> StoredImage:
    return workshop.unpack(images.Image([images.layer({"f": text})]))


def test_what_is_pushed_with_a_key_is_accepted(
    workshop: Workshop, attached: Site, registry_host: str
) -> None:
    name = f"{registry_host}/push/signed:1"
    key = Key()
    image = unpacked(workshop, "signed")
    signer = trust.sigstore_signer(private(attached, key))
    lines = send(workshop, image, name, signers=[signer])
    assert lines[-1].startswith(f"Signatures: 1, in {registry_host} under the tag sha256-")
    demanded(attached, registry_host, key)
    assert attached.rless(name) == ""
    demanded(attached, registry_host, Key())
    assert "not signed by the key" in attached.rless(name)


def test_nothing_is_pushed_where_attachments_are_not_used(
    workshop: Workshop, site: Site, registry_host: str
) -> None:
    signer = trust.sigstore_signer(private(site, Key()))
    with pytest.raises(RlessError, match="use-sigstore-attachments") as caught:
        send(workshop, unpacked(workshop, "off"), f"{registry_host}/push/off:1", signers=[signer])
    assert "\n" not in str(caught.value)
    assert tags(registry_host, "push/off") == []


@pytest.mark.needs("gpg")
def test_signatures_that_an_image_came_with_go_along(
    workshop: Workshop, attached: Site, keys: Keys, registry_host: str
) -> None:
    """As long as the manifest is the same, and unless they are removed."""
    name, copy = f"{registry_host}/push/first:1", f"{registry_host}/push/second:1"
    key = Key()
    signer = trust.sigstore_signer(private(attached, key))
    send(workshop, unpacked(workshop, "along"), name, signers=[signer])
    data, _ = manifest(registry_host, "push/first", "1")
    digest = images.digest(data)
    attached.put(name, digest, [keys.sign("good", payload(digest, name))])
    demanded(attached, registry_host, key)
    image = workshop.pull(name)
    assert len(records.get_signatures(workshop.root, digest)) == 2
    assert "Signatures: " not in "".join(send(workshop, image, copy, remove_signatures=True))
    lines = send(workshop, image, copy)
    assert lines[-1].startswith("Signatures: 2, in ")
    assert "for another name" in attached.rless(copy)
    as_before = {"type": "remapIdentity", "prefix": copy[:-2], "signedPrefix": name[:-2]}
    for wanted in (
        {
            "type": "sigstoreSigned",
            "keyPath": f"{attached.directory}/key.pub",
            "signedIdentity": as_before,
        },
        signed_by(keys.public("good"), signedIdentity=as_before),
    ):
        attached.demand(registry_host, wanted)
        assert attached.rless(copy) == ""
    lines = send(workshop, image, f"{registry_host}/push/third:1", packing=Packing("zstd"))
    assert "Signatures: " not in "".join(lines)


def test_signatures_that_the_destination_does_not_take_are_left_out(
    workshop: Workshop, attached: Site, registry_host: str
) -> None:
    name = f"{registry_host}/push/kept:1"
    key = Key()
    signer = trust.sigstore_signer(private(attached, key))
    send(workshop, unpacked(workshop, "kept"), name, signers=[signer])
    demanded(attached, registry_host, key)
    image = workshop.pull(name)
    attached.signatures_at(f"file://{attached.lookaside}")
    lines = send(workshop, image, f"{registry_host}/push/not-kept:1")
    assert lines[-1].startswith("Signatures that the image came with are left out: ")
    assert tags(registry_host, "push/not-kept") == ["1"]


# -- parameters ------------------------------------------------------------------------------


def test_a_file_of_parameters_names_the_key(
    workshop: Workshop, attached: Site, registry_host: str
) -> None:
    name = f"{registry_host}/push/parameters:1"
    key = Key()
    secret = attached.directory / "secret"
    secret.write_text("secret\n")
    path = attached.directory / "parameters.yaml"
    document = {
        "privateKeyFile": private(attached, key, b"secret"),
        "privateKeyPassphraseFile": str(secret),
    }
    path.write_text(json.dumps(document))
    signer = trust.parameters_signer(str(path))
    send(workshop, unpacked(workshop, "parameters"), name, signers=[signer])
    demanded(attached, registry_host, key)
    assert attached.rless(name) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fulcio: {fulcioURL: https://f}", "signing by fulcio is not supported"),
        ("{privateKeyFile: a, rekorURL: https://r}", "signing by rekorURL is not supported"),
        ("{privateKeyFile: a, more: b}", "unknown field 'more'"),
        ("{privateKeyFile: 1}", "not a string"),
        ("{}", "no privateKeyFile"),
        ("[]", "not a mapping"),
        ("{", "no YAML"),
    ],
)
def test_parameters_that_are_not_supported_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    with pytest.raises(RlessError, match=why) as caught:
        trust.parameters_signer(str(path))
    assert "\n" not in str(caught.value)


# -- as it is typed --------------------------------------------------------------------------


def test_push_signs_by_flags(own_rless: Product, tmp_path: Path, registry_host: str) -> None:
    name = f"{registry_host}/push/typed:1"
    key = Key()
    containers = own_rless.home / ".config/containers"
    (containers / "registries.d").mkdir(parents=True)
    text = "default-docker: {use-sigstore-attachments: true}"
    (containers / "registries.d/all.yaml").write_text(text)
    (tmp_path / "key").write_bytes(key.cosign_pem(b"secret"))
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "key.pub").write_bytes(key.public_pem)
    images.push(images.busybox_image(), name)
    own_rless("pull", "-q", name).expect()
    signing = ("--sign-by-sigstore-private-key", f"{tmp_path}/key")
    secret = ("--sign-passphrase-file", f"{tmp_path}/secret")
    said = own_rless("push", "-q", *signing, name).expect(1).one_line_error()
    assert "has a passphrase; name its file by --sign-passphrase-file" in said
    said = own_rless("push", *signing, *secret, "--sign-by=x", name).one_line_error()
    assert "--sign-passphrase-file goes with one of" in said
    own_rless("push", "-q", *signing, *secret, name).expect()
    wanted = [{"type": "sigstoreSigned", "keyPath": f"{tmp_path}/key.pub"}]
    (containers / "policy.json").write_text(json.dumps({"default": wanted}))
    own_rless("pull", "-q", name).expect()
    shown = own_rless("image", "inspect", "-f", "{{json .Signatures}}", name).expect()
    (seen,) = json.loads(shown.out)
    assert (seen["Type"], seen["Name"]) == ("sigstore", name)
