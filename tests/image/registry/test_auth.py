"""Finding and storing credentials: attack class 23 of docs/security.md."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.registry import auth, credential_helper
from rootless.image.registry.credentials import Credentials

HELPER = """#!/bin/sh
# A credential helper that keeps its secrets in a file and notes how it was called.
dir={directory}
read -r input
{{ echo "$1 $input"; env | sort; }} >>"$dir/calls"
case $1 in
get)
    [ -e "$dir/secret" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
    cat "$dir/secret" ;;
store) echo "$input" >"$dir/secret" ;;
erase) rm -f "$dir/secret" ;;
list) [ -e "$dir/secret" ] && echo '{{"reg.example": "me"}}' || echo '{{}}' ;;
esac
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


RUNTIME, OWN, DOCKER = (
    "run/containers/auth.json",
    ".config/containers/auth.json",
    ".docker/config.json",
)


def encode(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def write(home: Path, name: str, **document: Any) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def read(home: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((home / name).read_text())
    return document


def found(registry: str, repository: str = "team/app") -> str | None:
    credentials = auth.find(registry, repository)
    return None if credentials is None else f"{credentials.username}:{credentials.password}"


def make_helper(home: Path, name: str = "test", text: str = HELPER) -> Path:
    path = home / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.format(directory=home))
    path.chmod(0o755)
    return path


# -- reading -----------------------------------------------------------------------------------


def test_files_are_read_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("reg.example") is None
    write(home, DOCKER, auths={"reg.example": encode("docker:1")})
    assert found("reg.example") == "docker:1"
    write(home, OWN, auths={"reg.example": encode("own:1")})
    assert found("reg.example") == "own:1"
    write(home, RUNTIME, auths={"reg.example": encode("runtime:1")})
    assert found("reg.example") == "runtime:1"
    write(home, "explicit", auths={"reg.example": encode("explicit:1")})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "explicit"))
    assert found("reg.example") == "explicit:1"
    write(home, "dir/config.json", auths={"other.example": encode("moved:1")})
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "dir"))
    assert found("other.example") == "moved:1"


def test_longest_key_wins(home: Path) -> None:
    auths = {
        "reg.example": encode("host:1"),
        "reg.example/team": encode("team:1"),
        "reg.example/team/app": encode("app:1"),
    }
    write(home, OWN, auths=auths)
    assert found("reg.example") == "app:1"
    assert found("reg.example", "team/other") == "team:1"
    assert found("reg.example", "teamwork/x") == "host:1"
    assert found("reg.example:443") is None


@pytest.mark.parametrize(
    "key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"]
)
def test_docker_io_has_its_own_key(home: Path, key: str) -> None:
    write(home, DOCKER, auths={key: encode("me:pw")})
    assert found("docker.io", "library/x") == "me:pw"
    assert found("reg.example") is None


@pytest.mark.parametrize(
    "key", ["https://reg.example", "http://reg.example/v1/", "reg.example/v2/"]
)
def test_old_spellings_of_keys_are_read(home: Path, key: str) -> None:
    write(home, DOCKER, auths={key: encode("me:a:b")})
    assert found("reg.example") == "me:a:b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"auths":{"reg.example":5}}', "not an object"),
        ('{"auths":{"reg.example":{"auth":"*"}}}', "not base64"),
        ('{"auths":{"reg.example":{"auth":"bWU="}}}', "no password"),
        ('{"auths":{"reg.example":{"username":5}}}', "not made of strings"),
        (" " * (2 << 20), "too large"),
    ],
)
def test_23_broken_files_are_reported(home: Path, text: str, why: str) -> None:
    write(home, OWN).write_text(text)
    with pytest.raises(RlessError, match=why) as caught:
        found("reg.example")
    assert OWN in str(caught.value)


def test_23_fifo_in_place_of_the_file_is_ignored(home: Path) -> None:
    (home / ".docker").mkdir()
    os.mkfifo(home / DOCKER)
    assert found("reg.example") is None


def test_23_world_readable_file_is_reported(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(home, OWN, auths={"reg.example": encode("me:pass-word")}).chmod(0o644)
    assert found("reg.example") == found("reg.example") == "me:pass-word"
    said = capfd.readouterr().err
    assert said.count("chmod 600") == 1 and "pass-word" not in said


def test_23_credentials_are_never_shown() -> None:
    assert "pass" not in f"{Credentials('me', 'pass', 'pass')!r} {Credentials('me', 'pass')}"


# -- writing -----------------------------------------------------------------------------------


def test_23_written_file_is_private(home: Path) -> None:
    os.umask(0)
    try:
        path = auth.save("reg.example", Credentials("me", "pass:word"))
    finally:
        os.umask(0o022)
    assert path == str(home / OWN)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert found("reg.example") == "me:pass:word"
    assert os.listdir(os.path.dirname(path)) == ["auth.json"]


def test_rest_of_the_file_is_kept(home: Path) -> None:
    other = {"other.example": encode("a:b")}
    write(home, OWN, auths=other, credHelpers={"x.example": "x"}, more=[1, {"a": None}])
    auth.save("reg.example", Credentials("me", "pw"))
    document = read(home, OWN)
    assert document["auths"].pop("reg.example") == encode("me:pw")
    assert document == {"auths": other, "credHelpers": {"x.example": "x"}, "more": [1, {"a": None}]}
    assert auth.forget("reg.example") == [str(home / OWN)]
    assert read(home, OWN)["auths"] == other and auth.forget("reg.example") == []


def test_entry_hiding_the_new_one_is_replaced(home: Path) -> None:
    write(home, RUNTIME, auths={"reg.example": encode("old:1")})
    assert auth.save("reg.example", Credentials("new", "2")) == str(home / RUNTIME)
    assert found("reg.example") == "new:2"


def test_named_file_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "new/file.json"))
    assert auth.save("reg.example", Credentials("me", "pw")) == str(home / "new/file.json")
    assert stat.S_IMODE(os.stat(home / "new").st_mode) == 0o700
    assert found("reg.example") == "me:pw"


def test_23_link_is_followed_only_to_a_file_of_the_user(home: Path) -> None:
    target = write(home, "dotfiles/auth.json", auths={})
    (home / OWN).parent.mkdir(parents=True)
    (home / OWN).symlink_to(target)
    auth.save("reg.example", Credentials("me", "pw"))
    assert (home / OWN).is_symlink() and "reg.example" in target.read_text()
    (home / OWN).unlink()
    (home / OWN).symlink_to("/etc/passwd")
    with pytest.raises(RlessError, match=r"another user|cannot write|not valid JSON"):
        auth.save("reg.example", Credentials("me", "pw"))


def test_concurrent_logins_lose_nothing(home: Path) -> None:
    names = [f"r{number}.example" for number in range(20)]
    threads = [
        threading.Thread(target=auth.save, args=(name, Credentials("me", name))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read(home, OWN)["auths"]) == sorted(names)


def test_logout_all_removes_every_entry(home: Path) -> None:
    for name in (RUNTIME, OWN, DOCKER):
        write(home, name, auths={"a.example": encode("a:b"), "c.example": encode("c:d")})
    assert len(auth.forget("a.example")) == 3
    assert len(auth.forget(None)) == 3
    assert all(read(home, name)["auths"] == {} for name in (RUNTIME, OWN, DOCKER))


# -- helpers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named", [{"credsStore": "test"}, {"credHelpers": {"reg.example": "test"}}]
)
def test_helper_keeps_the_password(home: Path, named: dict[str, Any]) -> None:
    make_helper(home)
    write(home, DOCKER, auths={}, **named)
    assert found("reg.example") is None
    place = auth.save("reg.example", Credentials("me", "pass-word"))
    assert place == "docker-credential-test"
    assert found("reg.example") == "me:pass-word"
    assert "pass-word" not in (home / DOCKER).read_text() and not (home / OWN).exists()
    assert auth.forget("reg.example") == ["docker-credential-test"]
    assert found("reg.example") is None and not (home / "secret").exists()
    auth.save("reg.example", Credentials("me", "pw"))
    assert auth.forget(None) == ["docker-credential-test"]


def test_23_helper_gets_clean_environment_and_no_secret_in_argv(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_helper(home)
    for name in ("LD_PRELOAD", "PYTHONPATH", "MY_TOKEN", "BASH_ENV"):
        monkeypatch.setenv(name, "evil" if name != "LD_PRELOAD" else "")
    credential_helper.store("test", "reg.example", Credentials("me", "pass-word"))
    calls = (home / "calls").read_text()
    assert "evil" not in calls and "LD_PRELOAD" not in calls
    assert f"HOME={home}" in calls and "PATH=/usr/local/bin:/usr/bin:/bin" in calls


def test_helper_token_is_an_identity_token(home: Path) -> None:
    make_helper(home)
    write(home, OWN, credsStore="test")
    (home / "secret").write_text('{"Username":"<token>","Secret":"refresh-me"}')
    credentials = auth.find("reg.example", "x")
    assert credentials is not None
    assert (credentials.username, credentials.identity_token) == ("", "refresh-me")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", "-x", ".x", "a b", "a;b", "a\0b", "a\n", "é", "x" * 200]
)
def test_23_wrong_helper_names_are_refused(home: Path, name: str) -> None:
    with pytest.raises(RlessError, match="is not the name of a credential helper"):
        credential_helper.get(name, "reg.example")


def test_23_helper_writable_by_others_is_not_run(home: Path) -> None:
    make_helper(home).chmod(0o777)
    with pytest.raises(RlessError, match="can be changed by others"):
        credential_helper.get("test", "reg.example")
    assert not (home / "calls").exists()


def test_23_helper_in_the_working_directory_is_not_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_helper(home)
    monkeypatch.chdir(home / "bin")
    monkeypatch.setenv("PATH", ".::bin")
    with pytest.raises(RlessError, match="no program docker-credential-test"):
        credential_helper.get("test", "reg.example")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "get failed"),
        ("echo oh; exit 1", "get failed: oh"),
        ("printf 'a\\033[2Jb'; exit 1", r"get failed: a\\x1b\[2Jb"),
        ("echo nonsense", "not valid JSON"),
        ("echo '{{}}'", "no name and secret"),
        ("exec sleep 60", "took longer"),
        ("exec head -c 3000000 /dev/zero", "says too much"),
    ],
)
def test_failing_helper_is_reported_and_skipped(
    home: Path,
    script: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.setattr(credential_helper, "_SECONDS", 1)
    make_helper(home, text=f"#!/bin/sh\n{script}\n")
    write(home, OWN, credsStore="test", auths={"reg.example": encode("me:pw")})
    assert found("reg.example") == "me:pw"
    said = capfd.readouterr().err
    assert re.search(why, said) and said.count("\n") == 1
