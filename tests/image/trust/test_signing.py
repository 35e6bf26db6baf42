"""Signing at push, and the policy on the command line; Podman and skopeo accept what is written.

Security classes 78 and 80.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.image.trust import gpg, simple
from rootless.image.trust.identity import parse_named
from tests.lib import images
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import tags
from tests.lib.sigstore import Key
from tests.lib.trust import ACCEPT, REJECT, Keys, Site, payload, signed_by

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry", "gpg")


@pytest.fixture
def rless(own_rless: Product, site: Site, keys: Keys) -> Iterator[Product]:
    own_rless.env |= {"HOME": str(site.home), "GNUPGHOME": str(keys.home)}
    yield own_rless
    keys.stop()  # the agent that a push has started is no process of rless


@pytest.fixture
def image(rless: Product, registry_host: str) -> str:
    """Return the name of an image of the store, which a registry has too."""
    name = f"{registry_host}/signing/source:1"
    images.push(images.busybox_image(), name)
    rless("pull", "-q", name).expect()
    return name


def podman_pull(name: str) -> str:
    """Return why Podman refuses an image, "" if it does not."""
    base = Path(tempfile.mkdtemp(prefix="podman-"))  # it wants a short name
    podman = ["podman", "--root", base / "root", "--runroot", base / "run"]
    podman += ["--storage-driver", "vfs"]
    pull = [*podman, "pull", "-q", "--tls-verify=false", name]
    (base / "user").mkdir(mode=0o700)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(base / "user")}
    try:
        done = subprocess.run(pull, env=env, capture_output=True, text=True)
    finally:
        subprocess.run([*podman, "unshare", "rm", "-rf", base / "root"], env=env, check=True)
        # The process that keeps its user namespace would stay.
        os.kill(int((base / "user/libpod/tmp/pause.pid").read_text()), signal.SIGKILL)
        shutil.rmtree(base)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.needs("busybox", "skopeo")
def test_skopeo_accepts_what_push_signs(
    rless: Product, site: Site, keys: Keys, registry_host: str, image: str
) -> None:
    name = f"{registry_host}/signing/app:1"
    fingerprint = keys.fingerprints["good"]
    said = rless("push", "--sign-by", fingerprint, image, name).expect().out
    assert f"Signatures: 1, in {site.lookaside}/signing/app@sha256=" in said
    site.demand(registry_host, signed_by(keys.public("good")))
    assert site.rless(name) == site.skopeo(name) == ""
    site.demand(registry_host, signed_by(keys.public("other")))
    assert site.rless(name) and site.skopeo(name)


@pytest.mark.needs("podman")
def test_podman_accepts_what_rless_signs(
    site: Site, keys: Keys, registry_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(keys.home))
    name = f"{registry_host}/signing/podman:1"
    digest = images.push(images.Image([images.layer({"a": "b"})]), name)
    signature = simple.sign(digest, parse_named(name), keys.fingerprints["good"])
    site.put(name, digest, [signature.blob()])
    site.demand(registry_host, signed_by(keys.public("good")))
    assert podman_pull(name) == ""
    site.demand(registry_host, signed_by(keys.public("other")))
    assert "Source image rejected" in podman_pull(name)


@pytest.mark.needs("busybox", "skopeo")
def test_save_signs_a_directory_that_skopeo_and_load_accept(
    rless: Product, site: Site, keys: Keys, image: str
) -> None:
    made = site.directory / "made"
    cosign = Key()
    (site.directory / "cosign.key").write_bytes(cosign.private_pem())
    words = ["save", "-q", "--format", "docker-dir", "--sign-by", keys.fingerprints["good"]]
    words += ["--sign-by-sigstore-private-key", str(site.directory / "cosign.key")]
    rless(*words, "-o", str(made), image).expect()
    assert (made / "signature-2").read_bytes().startswith(b"\0sigstore-json\n")
    same = {"signedIdentity": {"type": "exactReference", "dockerReference": image}}
    scope = str(made)
    for name, accepted in (("good", True), ("other", False)):
        site.demand(scope, signed_by(keys.public(name), **same), transport="dir")
        assert (site.skopeo(f"dir:{made}") == "") is accepted
        loaded = rless("load", "-q", "-i", str(made))
        assert (loaded.code == 0) is accepted, loaded.err
    (site.directory / "cosign.pub").write_bytes(cosign.public_pem)
    key = {"type": "sigstoreSigned", "keyPath": f"{site.directory}/cosign.pub", **same}
    site.demand(scope, key, transport="dir")
    rless("load", "-q", "-i", str(made)).expect()
    # Another manifest than the one that was signed.
    (made / "manifest.json").write_bytes((made / "manifest.json").read_bytes() + b" ")
    assert "is refused by the policy" in rless("load", "-q", "-i", str(made)).expect(1).err


@pytest.mark.needs("busybox")
def test_save_says_where_signatures_have_no_place(rless: Product, keys: Keys, image: str) -> None:
    words = ["save", "-q", "--sign-by", keys.fingerprints["good"], "-o", "made"]
    said = rless(*words, image).one_line_error()
    assert "a docker-archive has no place for signatures; use --format docker-dir" in said
    number = rless("images", "-q", "--no-trunc", image).expect().out.strip()
    said = rless(*words, "--format", "docker-dir", number).one_line_error()
    assert "has no name to sign; give it one: rless tag ID" in said
    said = rless(*words[:2], "--sign-by", "nobody@x", "--format=docker-dir", "-o", "made", image)
    assert "cannot sign with the key nobody@x" in said.one_line_error()
    assert not (rless.home / "made").exists()


@pytest.mark.needs("busybox")
def test_passphrase_comes_from_a_file_and_shows_nowhere(
    rless: Product, site: Site, keys: Keys, registry_host: str, image: str
) -> None:
    keys.gpg("--passphrase", "hush", "--quick-gen-key", "locked@example.org", "ed25519", "sign")
    keys.stop()  # it would still know the passphrase
    name = f"{registry_host}/signing/locked:1"
    words = ["push", "-q", "--sign-by", "locked@example.org", "--sign-passphrase-file"]
    file = site.directory / "passphrase"
    file.write_text("wrong\n")
    failed = rless(*words, str(file), image, name).expect(1)
    assert (
        "cannot sign with the key locked@example.org: gpg: signing failed"
        in failed.one_line_error()
    )
    # Who cannot sign sends no image.
    assert tags(registry_host, "signing/locked") == []
    file.write_text("hush\nmore\n")
    rless(*words, str(file), image, name).expect()
    key = site.directory / "locked.pub"
    key.write_bytes(keys.gpg("--export", "locked@example.org"))
    site.demand(registry_host, signed_by(key))
    assert site.rless(name) == ""
    assert "cannot read the passphrase in /none" in rless(*words, "/none", image).expect(1).err


def test_passphrase_is_no_argument(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = subprocess.run

    def record(command: list[str], **options: Any) -> Any:
        seen.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setenv("GNUPGHOME", str(keys.home))
    assert gpg.sign(b"x", keys.fingerprints["good"], "hush")
    (command,) = seen
    assert "hush" not in " ".join(command)
    assert "--passphrase-fd" in command


@pytest.mark.needs("busybox", "mksquashfs")
def test_signature_policy_is_a_flag_of_all_that_fetch(
    rless: Product, site: Site, registry_host: str, image: str
) -> None:
    archive = str(site.directory / "image.tar")
    rless("save", "-o", archive, image).expect()
    rless("rmi", image).expect()
    reject = site.directory / "reject.json"
    reject.write_text(json.dumps({"default": [REJECT]}))
    (site.directory / "context").mkdir()
    Path(site.directory, "context/Dockerfile").write_text(f"FROM {image}\n")
    verbs: list[list[str]] = [
        ["pull", image],
        ["run", "--network", "none", image, "true"],
        ["create", image],
        ["create", "--pull", "always", image],
        ["load", "-i", archive],
        ["build", str(site.directory / "context")],
        ["flatten", image, str(site.directory / "image.sqsh")],
    ]
    for verb in verbs:
        failed = rless(verb[0], f"--signature-policy={reject}", *verb[1:])
        assert failed.code, verb
        assert "default: reject: no image is accepted" in failed.err, (verb, failed.err)
    assert rless("images", "-q").expect().out == ""
    # One that is here was judged when it came.
    rless("pull", "-q", image).expect()
    rless.run(["--signature-policy", str(reject)], "true", image=image).expect()


# -- image trust -----------------------------------------------------------------------------


def test_policy_is_shown_and_changed(rless: Product, site: Site, keys: Keys) -> None:
    key = str(keys.public("good"))
    rless("image", "trust", "set", "-t", "reject", "default").expect()
    rless("image", "trust", "set", "-f", key, "a.example/team").expect()
    rless("image", "trust", "set", "--type=accept", "b.example:5000").expect()
    rless("image", "trust", "set", "--type=sigstoreSigned", "-f", key, "*.c.example").expect()
    written = json.loads((site.containers / "policy.json").read_text())
    assert written == {
        "default": [REJECT],
        "transports": {
            "docker": {
                "a.example/team": [signed_by(Path(key))],
                "b.example:5000": [ACCEPT],
                "*.c.example": [{"type": "sigstoreSigned", "keyPath": key}],
            }
        },
    }
    lines = rless("image", "trust", "show").expect().lines()
    store = f"file://{site.lookaside}"
    assert [line.split() for line in lines] == [
        ["TRANSPORT", "NAME", "TYPE", "ID", "STORE"],
        ["all", "default", "reject", store],
        ["repository", "*.c.example", "sigstoreSigned", "N/A", store],
        ["repository", "a.example/team", "signed", "good@example.org", store],
        ["repository", "b.example:5000", "accept", store],
    ]
    assert rless("image", "trust", "show", "-n").expect().lines() == lines[1:]
    (one,) = rless("image", "trust", "show", "-n", "default").expect().lines()
    assert one.split() == lines[1].split()
    shown = json.loads(rless("image", "trust", "show", "--json").expect().out)
    assert shown[2] == {
        "transport": "repository",
        "name": "a.example/team",
        "repo_name": "a.example/team",
        "type": "signed",
        "gpg_id": "good@example.org",
        "sigstore": store,
    }
    raw = rless("image", "trust", "show", "--raw").expect().out
    assert json.loads(raw) == written


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("set a.example", "--type signedBy needs a key"),
        ("set -t accept -f /key a.example", "--type accept takes no key"),
        ("set -t accept A/B", "'A/B' is no scope"),
        ("set -t accept", "set takes one scope"),
        ("set -t maybe a.example", "is not one of"),
        ("show --type accept", "--type does not go with show"),
        ("check", "check needs the name of an image"),
        ("delete x", "no such verb: image trust delete"),
    ],
)
def test_mistakes_change_nothing(rless: Product, site: Site, words: str, why: str) -> None:
    failed = rless("image", "trust", *words.split())
    assert failed.code and why in failed.one_line_error()
    assert not (site.containers / "policy.json").exists()


def test_wrong_policy_is_not_overwritten(rless: Product, site: Site) -> None:
    path = site.containers / "policy.json"
    path.write_text('{"default": [{"type": "reject"}], "transport": {}}')
    failed = rless("image", "trust", "set", "-t", "accept", "default").expect(1)
    assert "unknown field 'transport'" in failed.one_line_error()
    assert "transport" in path.read_text()


def test_check_tells_rule_by_rule(
    rless: Product, site: Site, keys: Keys, registry_host: str
) -> None:
    name = f"{registry_host}/signing/check:1"
    digest = images.push(images.Image([images.layer({"a": "b"})]), name)
    rules = [signed_by(keys.public(key)) for key in ("good", "other")]
    path = site.demand(registry_host, *rules)
    site.put(name, digest, [keys.sign("good", payload(digest, name))])
    assert rless("image", "trust", "check", name).expect(1).lines() == [
        f"{name}: refused ({path}, docker: {registry_host})",
        "  signedBy: yes",
        "  signedBy: no",
        "    the signature is by a key that the policy does not name",
    ]
    site.demand(registry_host, rules[0])
    assert rless("image", "trust", "check", name).expect().lines()[1:] == ["  signedBy: yes"]
    assert rless("images", "-q").expect().out == ""
