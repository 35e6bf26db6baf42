"""policy.json: what is read, what is refused, and which part of it decides about a name.

Security classes 77 and 79. Each document was judged by skopeo too:
`test_skopeo_reads_and_refuses_the_same` does it again.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model.reference import parse as parse_reference
from rootless.image.trust import policy
from rootless.image.trust.identity import (
    EXACT_REFERENCE,
    EXACT_REPOSITORY,
    MATCH_EXACT,
    MATCH_REPO_DIGEST_OR_EXACT,
    MATCH_REPOSITORY,
    REMAP_IDENTITY,
    SignedIdentity,
    subject_of,
)
from rootless.image.trust.requirements import Reject, SignedBy, SigstoreSigned

DIGEST = "sha256:" + "5" * 64
REJECT = {"type": "reject"}
ACCEPT = {"type": "insecureAcceptAnything"}


def signed(**fields: Any) -> dict[str, Any]:
    return {"type": "signedBy", "keyType": "GPGKeys", **fields}


def remap(prefix: str, signed_prefix: str = "a/b") -> dict[str, Any]:
    rule = {"type": "remapIdentity", "prefix": prefix, "signedPrefix": signed_prefix}
    return signed(keyPath="/key", signedIdentity=rule)


def scoped(transport: str, scope: str) -> str:
    return json.dumps({"default": [REJECT], "transports": {transport: {scope: [REJECT]}}})


def default(*requirements: Any) -> str:
    return json.dumps({"default": list(requirements)})


RIGHT = {
    "reject": default(REJECT),
    "accept": default(ACCEPT),
    "several": default(ACCEPT, REJECT),
    "unknown transport": scoped("foo", "any thing"),
    "atomic": scoped("atomic", "host:5000/x"),
    "docker scope is not parsed": scoped("docker", "HOST//::x"),
    "docker wildcard": scoped("docker", "*.example.com"),
    "docker-daemon": scoped("docker-daemon", "x"),
    "docker-daemon default": scoped("docker-daemon", ""),
    "docker-archive default": scoped("docker-archive", ""),
    "dir": scoped("dir", "/a/b"),
    "no key paths": default(signed(keyPaths=[])),
    "key data": default(signed(keyData="YQ=\n=")),
    "other key types": default(signed(keyPath="/key") | {"keyType": "signedByX509CAs"}),
    "remap to a host": default(remap("busybox")),
    "base layer": default({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}),
    "sigstore": default({"type": "sigstoreSigned", "keyPath": "/key"}),
}

WRONG = {
    "no default": "{}",
    "null": "null",
    "list": "[]",
    "empty file": "",
    "empty requirements": default(),
    "default is no list": '{"default": {"type": "reject"}}',
    "two defaults": '{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}',
    "two types": '{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}',
    "something after the end": '{"default": [{"type": "reject"}]} x',
    "comment": '{"default": [{"type": "reject"}]} // x',
    "byte order mark": '\ufeff{"default": [{"type": "reject"}]}',
    "unknown top field": '{"default": [{"type": "reject"}], "defaults": 1}',
    "null transports": '{"default": [{"type": "reject"}], "transports": null}',
    "unknown type": default({"type": "rejct"}),
    "no type": default({}),
    "requirement is text": default("reject"),
    "field beside reject": default({"type": "reject", "x": 1}),
    "relative directory": scoped("dir", "rel"),
    "root directory": scoped("dir", "/"),
    "dots in a path": scoped("oci-archive", "/a/../b"),
    "scope of docker-archive": scoped("docker-archive", "/a"),
    "digest of docker-daemon": scoped("docker-daemon", DIGEST),
    "no key type": default({"type": "signedBy", "keyPath": "/key"}),
    "unknown key type": default({"type": "signedBy", "keyType": "PGP", "keyPath": "/key"}),
    "no key": default(signed()),
    "two keys": default(signed(keyPath="/a", keyData="YQ==")),
    "empty key path": default(signed(keyPath="")),
    "key path of another type": default(signed(keyPath=True)),
    "key paths of another type": default(signed(keyPaths="/a")),
    "null key paths": default(signed(keyPaths=None)),
    "cut base64": default(signed(keyData="YQ")),
    "unknown field of signedBy": default(signed(keyPath="/a", keyPth="/b")),
    "unknown identity": default(signed(keyPath="/a", signedIdentity={"type": "match"})),
    "null identity": default(signed(keyPath="/a", signedIdentity=None)),
    "reference without tag": default(
        signed(keyPath="/a", signedIdentity={"type": "exactReference", "dockerReference": "a/b"})
    ),
    "bad repository": default(
        signed(keyPath="/a", signedIdentity={"type": "exactRepository", "dockerRepository": "A B"})
    ),
    "bad prefix": default(remap("a.b/")),
    "bad signed prefix": default(remap("a.b", "a.b/C")),
    "sigstore without a key": default({"type": "sigstoreSigned"}),
    "sigstore with two": default({"type": "sigstoreSigned", "keyPath": "/a", "keyData": "YQ=="}),
    "base layer without identity": default({"type": "signedBaseLayer"}),
}


@pytest.mark.parametrize("document", RIGHT.values(), ids=RIGHT)
def test_read_what_containers_image_reads(document: str) -> None:
    assert policy.parse(document.encode(), "p").default


@pytest.mark.parametrize("document", WRONG.values(), ids=WRONG)
def test_refuse_what_containers_image_refuses(document: str) -> None:
    with pytest.raises(policy.PolicyError, match=r"policy /etc/p: .*nothing is accepted until"):
        policy.parse(document.encode(), "/etc/p")


@pytest.mark.needs("skopeo")
def test_skopeo_reads_and_refuses_the_same(tmp_path: Path) -> None:
    for name, document in {**RIGHT, **WRONG}.items():
        (tmp_path / "policy.json").write_text(document)
        done = subprocess.run(
            ["skopeo", "copy", "--policy", tmp_path / "policy.json", "dir:/none", "dir:/none2"],
            capture_output=True,
            text=True,
        )
        assert ("invalid policy" in done.stderr) == (name in WRONG), (name, done.stderr)


@pytest.mark.parametrize("data", [b"\xff{}", b"[" * 100_000, b'{"default": NaN}'])
def test_refuse_bytes_that_are_no_json(data: bytes) -> None:
    with pytest.raises(policy.PolicyError, match="policy p: "):
        policy.parse(data, "p")


def test_read_the_newer_kinds_of_sigstore() -> None:
    fulcio = {"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"}
    pki = {"caRootsPath": "/ca", "caIntermediatesData": "YQ==", "subjectHostname": "h"}
    for extra in (
        {"fulcio": fulcio, "rekorPublicKeyPath": "/rekor"},
        {"pki": pki},
        {"keyDatas": ["YQ==", "Yg=="], "rekorPublicKeyDatas": ["YQ=="]},
        {"keyPaths": ["/a", "/b"]},
    ):
        read = policy.parse(default({"type": "sigstoreSigned", **extra}).encode(), "p")
        assert isinstance(read.default[0], SigstoreSigned)
    for extra in (
        {"fulcio": fulcio},
        {"fulcio": fulcio | {"subjectEmail": ""}, "rekorPublicKeyPath": "/rekor"},
        {"fulcio": fulcio | {"x": ""}, "rekorPublicKeyPath": "/rekor"},
        {"pki": pki | {"subjectHostname": ""}},
        {"pki": pki, "keyPath": "/a"},
        {"keyPaths": []},
        {"keyPath": "/a", "rekorPublicKeyPath": "/r", "rekorPublicKeyData": "YQ=="},
    ):
        with pytest.raises(policy.PolicyError):
            policy.parse(default({"type": "sigstoreSigned", **extra}).encode(), "p")


# -- which file ------------------------------------------------------------------------------


def test_the_users_file_comes_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(policy, "SYSTEM", str(tmp_path / "system.json"))
    assert policy.load() is None
    (tmp_path / "system.json").write_text(default(ACCEPT))
    assert policy.path_of() == str(tmp_path / "system.json")
    own = tmp_path / "home/.config/containers/policy.json"
    own.parent.mkdir(parents=True)
    own.write_text(default(REJECT))
    read = policy.load()
    assert read is not None and read.path == str(own)
    assert policy.path_of(str(tmp_path / "system.json")) == str(tmp_path / "system.json")


def test_a_file_that_cannot_be_read_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(policy.PolicyError, match=r"cannot read the policy .*/none: No such file"):
        policy.load(str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".config/containers/policy.json"
    own.mkdir(parents=True)  # a directory: root could read a file of mode 0
    with pytest.raises(policy.PolicyError, match="cannot read the policy"):
        policy.load()
    own.rmdir()
    # Root could look into any directory: here one that cannot be looked up for anybody.
    monkeypatch.setattr(policy, "SYSTEM", f"{tmp_path}/{'x' * 300}/policy.json")
    with pytest.raises(policy.PolicyError, match=r"cannot read the policy .*: File name too long"):
        policy.load()


# -- scopes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "name", "chosen"),
    [
        (["docker.io/library/busybox:latest", "docker.io"], "busybox", 0),
        (["docker.io/library/busybox:1", "docker.io/library/busybox"], "busybox", 1),
        (["docker.io/library", "docker.io"], "busybox", 0),
        (["docker.io/lib", "docker.io"], "busybox", 1),
        ([f"quay.io/a/b@{DIGEST}", "quay.io/a/b:1"], f"quay.io/a/b@{DIGEST}", 0),
        ([f"quay.io/a/b@{DIGEST}", "quay.io/a/b:1"], f"quay.io/a/b:1@{DIGEST}", 0),
        (["h:5000/a/b", "h:5000", "h"], "h:5000/a/b/c:1", 0),
        (["h", "h:5000"], "h:5000/a:1", 1),
        (["*.example.com", "*.com"], "x.example.com:5000/a", 0),
        (["*.example.com", "*.com"], "example.com/a", 1),
        (["*.example.com", "x.example.com"], "x.example.com/a", 1),
        (["*.example.com", ""], "other.org/a", 1),
    ],
)
def test_the_narrowest_scope_decides(scopes: list[str], name: str, chosen: int) -> None:
    document = {
        "default": [ACCEPT],
        "transports": {"docker": {scope: [ACCEPT] * (at + 2) for at, scope in enumerate(scopes)}},
    }
    read = policy.parse(json.dumps(document).encode(), "p")
    assert len(read.find(subject_of(parse_reference(name))).requirements) == chosen + 2


def test_scopes_of_paths_lead_up_to_the_default(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    document = {"default": [ACCEPT], "transports": {"oci": {f"{tmp_path}/real": [REJECT]}}}
    read = policy.parse(json.dumps(document).encode(), "p")
    for path, decides in ("real", "oci"), ("link", "oci"), ("real/x", "oci"), ("other", "default"):
        match = read.find(subject_of(parse_reference(f"oci:{tmp_path}/{path}:tag")))
        assert match.scope.partition(":")[0] == decides
        assert match.rejects_anything == (decides == "oci")
    assert read.find(subject_of(parse_reference("busybox"))).accepts_anything


def test_a_wrong_section_is_not_that_of_another_transport() -> None:
    read = policy.parse(scoped("docker-archive", "").encode(), "p")
    assert read.find(subject_of(parse_reference("docker-archive:/x"))).scope.startswith("docker-a")
    assert read.find(subject_of(parse_reference("oci-archive:/x"))).scope == "default"
    subject = subject_of(parse_reference("busybox"))
    subject.transport = "docker-daemon"
    with pytest.raises(RlessError, match="docker-daemon is not supported"):
        read.find(subject)


def test_requirements_say_what_they_are() -> None:
    read = policy.parse(default(REJECT, signed(keyPaths=["/a", "/b"])).encode(), "p")
    first, second = read.default
    assert isinstance(first, Reject) and isinstance(second, SignedBy)
    assert second.keys.paths == ("/a", "/b")
    assert second.identity.kind == MATCH_REPO_DIGEST_OR_EXACT


# -- identities ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "asked", "signed_name", "fits"),
    [
        (MATCH_EXACT, "a.b/c:1", "a.b/c:1", True),
        (MATCH_EXACT, "a.b/c:1", "a.b/c:2", False),
        (MATCH_EXACT, "a.b/c:latest", "a.b/c", False),
        (MATCH_EXACT, f"a.b/c@{DIGEST}", f"a.b/c@{DIGEST}", True),
        (MATCH_EXACT, f"a.b/c@{DIGEST}", "a.b/c:1", False),
        (MATCH_EXACT, "busybox:1", "busybox:1", True),
        (MATCH_EXACT, "busybox:1", "docker.io/library/busybox:1", True),
        (MATCH_REPO_DIGEST_OR_EXACT, "a.b/c:1", "a.b/c:1", True),
        (MATCH_REPO_DIGEST_OR_EXACT, "a.b/c:1", "a.b/c:2", False),
        (MATCH_REPO_DIGEST_OR_EXACT, "a.b/c:1", "a.b/c", False),
        (MATCH_REPO_DIGEST_OR_EXACT, f"a.b/c@{DIGEST}", "a.b/c:2", True),
        (MATCH_REPO_DIGEST_OR_EXACT, f"a.b/c@{DIGEST}", "a.b/d:2", False),
        (MATCH_REPOSITORY, "a.b/c:1", "a.b/c:2", True),
        (MATCH_REPOSITORY, "a.b/c:1", "a.b/c", True),
        (MATCH_REPOSITORY, "a.b/c:1", "a.b/d:1", False),
        (MATCH_EXACT, "a.b/c:1", "not a name", False),
        (MATCH_EXACT, "a.b/c:1", "", False),
        (MATCH_EXACT, "a.b/c:1", "docker://a.b/c:1", False),
    ],
)
def test_a_signed_name_stands_for_the_asked(
    kind: str, asked: str, signed_name: str, fits: bool
) -> None:
    subject = subject_of(parse_reference(asked))
    assert SignedIdentity(kind).matches(subject, signed_name) == fits


@pytest.mark.parametrize(
    ("kind", "first", "second", "signed_name", "fits"),
    [
        (EXACT_REFERENCE, "x.y/z:1", "", "x.y/z:1", True),
        (EXACT_REFERENCE, "x.y/z:1", "", "x.y/z:2", False),
        (EXACT_REFERENCE, "x.y/z:1", "", "a.b/c:1", False),
        (EXACT_REPOSITORY, "x.y/z", "", "x.y/z:2", True),
        (EXACT_REPOSITORY, "x.y/z", "", "x.y/zz:2", False),
        (REMAP_IDENTITY, "a.b", "x.y", "x.y/c:1", True),
        (REMAP_IDENTITY, "a.b", "x.y/more", "x.y/more/c:1", True),
        (REMAP_IDENTITY, "a.b/c", "x.y/d", "x.y/d:1", True),
        (REMAP_IDENTITY, "a.b", "x.y", "a.b/c:1", False),
        (REMAP_IDENTITY, "a", "x.y", "a.b/c:1", True),
        (REMAP_IDENTITY, "a.b/cc", "x.y", "a.b/c:1", True),
        (REMAP_IDENTITY, "a.b", "busybox", "docker.io/busybox/c:1", False),
    ],
)
def test_a_rule_names_what_was_signed(
    kind: str, first: str, second: str, signed_name: str, fits: bool
) -> None:
    rule = SignedIdentity(kind, first, second)
    rule.check()
    assert rule.matches(subject_of(parse_reference("a.b/c:1")), signed_name) == fits


def test_a_file_has_no_name_that_could_match() -> None:
    subject = subject_of(parse_reference("oci:/x"))
    assert not SignedIdentity(MATCH_REPOSITORY).matches(subject, "a.b/c:1")
    assert SignedIdentity(EXACT_REPOSITORY, "a.b/c").matches(subject, "a.b/c:1")
