"""Private keys to sign with: which files are read, and how a failure is told."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.trust import sigstore, sigstore_key
from rootless.image.trust.identity import MATCH_REPO_DIGEST_OR_EXACT, Named, SignedIdentity, Subject
from rootless.image.trust.requirements import Keys, SigstoreSigned
from tests.lib.sigstore import Key

NAMED = Named("registry.example.com/app", "1", None)
DIGEST = f"sha256:{'1' * 64}"


def failure(path: Path, passphrase: str | None = None) -> str:
    with pytest.raises(RlessError) as caught:
        sigstore_key.load(str(path), passphrase)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
@pytest.mark.parametrize("form", ["plain", "OpenSSL", "cosign"])
def test_what_is_signed_by_a_key_is_accepted(tmp_path: Path, kind: str, form: str) -> None:
    key = Key(kind)
    path = tmp_path / "key"
    data = {"plain": key.private_pem, "OpenSSL": lambda: key.private_pem(b"secret")}
    path.write_bytes(key.cosign_pem(b"secret") if form == "cosign" else data[form]())
    loaded = sigstore_key.load(str(path), None if form == "plain" else "secret")
    signature = sigstore_key.sign(DIGEST, NAMED, loaded)
    wanted = SigstoreSigned(
        SignedIdentity(MATCH_REPO_DIGEST_OR_EXACT), keys=Keys(datas=(key.public_pem,))
    )
    sigstore.verify(wanted, signature, Subject("docker", NAMED, digest=DIGEST))
    assert json.loads(signature.payload)["optional"]["creator"].startswith("rless ")


def test_a_passphrase_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for data in (Key().private_pem(b"secret"), Key().cosign_pem(b"secret")):
        path.write_bytes(data)
        assert "--sign-passphrase-file" in failure(path)
        assert "passphrase is wrong" in failure(path, "other")
        assert "passphrase is wrong" in failure(path, "")


def test_a_passphrase_that_is_not_needed_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(Key().private_pem())
    sigstore_key.load(str(path), "secret")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert "cannot read the private key" in failure(path)
    path.write_bytes(b"\xff" * 100)
    assert "not in PEM format" in failure(path)
    path.write_bytes(Key().public_pem)
    assert "malformed, or of an unknown kind" in failure(path)
    path.write_bytes(Key("SECP256K1").private_pem())
    assert "is on the curve secp256k1" in failure(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"N": 32768', '"N": 1073741824'),
        ('"N": 32768', '"N": 0'),
        ('"N": 32768', '"N": "x"'),
        ('"scrypt"', '"argon2"'),
        ('"kdf"', '"other"'),
        ('"nonce": "', '"nonce": "%'),
        ('{"kdf"', '[{"kdf"'),
    ],
)
def test_a_malformed_key_of_cosign_is_refused(tmp_path: Path, old: str, new: str) -> None:
    label = "ENCRYPTED COSIGN PRIVATE KEY"
    lines = Key().cosign_pem(b"secret").decode().splitlines()
    text = base64.b64decode("".join(lines[1:-1])).decode()
    assert old in text
    changed = base64.encodebytes(text.replace(old, new).encode()).decode()
    path = tmp_path / "key"
    path.write_text(f"-----BEGIN {label}-----\n{changed}-----END {label}-----\n")
    assert "malformed, or of an unknown kind" in failure(path, "secret")


def test_the_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_bytes(Key().cosign_pem(b"secret"))
    for name in ("nacl", "nacl.secret", "nacl.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "needs the package PyNaCl; install python3-nacl" in failure(path, "secret")
