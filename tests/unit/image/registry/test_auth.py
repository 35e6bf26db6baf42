"""Credentials: found in others' files, read only, never shown."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.registry import auth
from rootless.image.registry.endpoint import parse_challenge


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, **auths: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {key.replace("__", "/"): v for key, v in auths.items()}}))


def pair(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_files_are_read_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert auth.find("r", "x") is None
    write(home / ".docker/config.json", r=pair("docker:1"))
    assert auth.find("r", "x").username == "docker"  # type: ignore[union-attr]
    write(home / ".config/containers/auth.json", r=pair("config:1"), other=pair("o:2"))
    assert auth.find("r", "x").username == "config"  # type: ignore[union-attr]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    write(home / "run/containers/auth.json", r=pair("runtime:a:b"))
    found = auth.find("r", "x")
    assert found is not None and (found.username, found.password) == ("runtime", "a:b")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "explicit"))
    write(home / "explicit", elsewhere=pair("explicit:1"))
    assert auth.find("r", "x").username == "runtime"  # type: ignore[union-attr]
    assert auth.find("nowhere", "x") is None


def test_longest_prefix_wins(home: Path) -> None:
    write(home / ".docker/config.json", r=pair("host:1"), r__a=pair("ns:1"), r__a__b=pair("repo:1"))
    names = [auth.find("r", name).username for name in ("z", "a/z", "a/b", "a/b/c", "ab")]  # type: ignore[union-attr]
    assert names == ["host", "ns", "repo", "repo", "host"]


def test_docker_hub_has_its_own_key(home: Path) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": pair("hub:pw")}}))
    found = auth.find("docker.io", "library/busybox")
    assert found is not None and found.username == "hub"
    assert auth.find("quay.io", "x") is None


def test_credentials_are_never_shown(home: Path) -> None:
    write(home / ".docker/config.json", r={"identitytoken": "secret"})
    found = auth.find("r", "x")
    assert found is not None and found.identity_token == "secret"
    assert "secret" not in repr(found) and "secret" not in str(found)


@pytest.mark.parametrize(
    "entry", [{"auth": "%%%"}, {"auth": "bm9jb2xvbg=="}, [], {"username": 1}, {"auth": "/w=="}]
)
def test_broken_entries_are_one_line_without_the_secret(home: Path, entry: object) -> None:
    write(home / ".docker/config.json", r=entry)
    with pytest.raises(RlessError) as caught:
        auth.find("r", "x")
    assert "config.json" in caught.value.message and "nocolon" not in caught.value.message


def test_odd_files_are_skipped_or_refused(home: Path) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    os.mkfifo(path)
    assert auth.find("r", "x") is None  # and it does not wait for a writer
    path.unlink()
    path.write_text("")
    assert auth.find("r", "x") is None
    write(path, r={})
    assert auth.find("r", "x") is None  # a helper has it
    path.write_text("[]")
    with pytest.raises(RlessError):
        auth.find("r", "x")
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(RlessError, match="too large"):
        auth.find("r", "x")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', ("basic", {"realm": "x"})),
        (
            'Bearer realm="https://a/t",service="s, t",scope="repository:x:pull"',
            ("bearer", {"realm": "https://a/t", "service": "s, t", "scope": "repository:x:pull"}),
        ),
        (r'Bearer realm="a\"b", error=invalid', ("bearer", {"realm": 'a"b', "error": "invalid"})),
        ('Bearer realm="unterminated', ("bearer", {"realm": "unterminated"})),
        ("", ("", {})),
        ("Bearer realm", ("bearer", {})),
    ],
)
def test_challenges_are_parsed(header: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_challenge(header) == expected
