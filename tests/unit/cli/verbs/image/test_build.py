"""From the parsed command line of `build` to the request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rootless.cli import verb_table
from rootless.cli.parse import parse
from rootless.cli.verbs.image.build import VERB
from rootless.cli.verbs.image.build import request as make
from rootless.engine.build.request import Agent, BuildRequest, Secret
from rootless.engine.request import RunRequest
from rootless.errors import RlessError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOURCE_DATE_EPOCH", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


def request(*argv: str) -> BuildRequest:
    return make(*parse(VERB, argv))


def refusal(*argv: str) -> str:
    with pytest.raises(RlessError) as caught:
        request(*argv)
    assert caught.value.exit_code == 125
    return str(caught.value)


def test_bare_build_has_the_defaults() -> None:
    assert request(".") == BuildRequest(context=".")
    assert request(".").run_settings() == RunRequest()


@pytest.mark.parametrize("words", ("build", "image build", "builder build", "buildx build"))
def test_the_verb_has_the_names_of_docker(words: str) -> None:
    assert verb_table.find([*words.split(), "."]) == ("build", ["."])


def test_image_is_described() -> None:
    found = request(
        *("-t", "a:1", "-t", "b", "-t", "a:1", "-f", "x/Dockerfile", "--target", "test"),
        *("--label", "k=v", "--platform", "linux/arm64", "--pull", "--no-cache"),
        *("--no-cache-filter", "a,b", "--no-cache-filter", "c"),
        *("--build-context", "Src=../src", "--iidfile", "iid", "ctx"),
    )
    assert found == BuildRequest(
        context="ctx",
        file="x/Dockerfile",
        tags=("a:1", "b"),
        labels={"k": "v"},
        target="test",
        platforms=("linux/arm64",),
        pull=True,
        no_cache=True,
        no_cache_filter=("a", "b", "c"),
        build_contexts={"src": "../src"},
        iidfile=os.path.abspath("iid"),
    )


def test_build_args_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    argv = [
        word for arg in ("A=1=2", "B=", "FROM_HERE", "NOT_SET") for word in ("--build-arg", arg)
    ]
    found = request(*argv, ".")
    expected = {"SOURCE_DATE_EPOCH": "5", "A": "1=2", "B": "", "FROM_HERE": "x"}
    assert found.build_args == expected
    assert found.epoch() == 5
    assert request("--build-arg", "SOURCE_DATE_EPOCH=6", ".").epoch() == 6


def test_a_time_that_is_none_is_refused() -> None:
    for value in ("x", "-1", "1.5", "9" * 30):
        message = "is no time"
        with pytest.raises(RlessError, match=message):
            request("--build-arg", f"SOURCE_DATE_EPOCH={value}", ".")


def test_proxies_are_set_in_both_spellings() -> None:
    found = request("--build-arg", "HTTP_PROXY=p", "--build-arg", "no_proxy=n", ".")
    assert set(found.proxies()) == {"HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"}
    both = request("--build-arg", "HTTP_PROXY=p", "--build-arg", "http_proxy=q", ".")
    assert set(both.proxies()) == {"HTTP_PROXY=p", "http_proxy=q"}


def test_flags_of_run_hold_for_each_run() -> None:
    found = request(
        *("--add-host", "a=1.2.3.4", "--dns", "9.9.9.9", "--ulimit", "nofile=1", "--ulimit"),
        *("nofile=2", "--shm-size", "1m", "--cap-drop", "ALL", "--network", "none", "."),
    )
    assert found.run_settings() == RunRequest(
        add_host=[("a", "1.2.3.4")],
        dns=["9.9.9.9"],
        ulimits=[("nofile", 2, 2)],
        shm_size=1 << 20,
        cap_drop=["ALL"],
        network="none",
    )
    assert request("--network", "default", ".").run_settings() == RunRequest()
    tried = request("--memory", "64m", "--limits=try", ".").run_settings()
    assert (tried.memory, tried.limits) == (64 << 20, "try")


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--memory=1m", "Minimum memory"), ("--cpus=9999", "CPUs")],
)
def test_limits_that_cannot_be_are_refused_as_by_run(flag: str, message: str) -> None:
    with pytest.raises(RlessError, match=message) as raised:
        request(flag, ".")
    assert raised.value.exit_code == 125


def test_secrets_are_files_or_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f,g").write_text("")
    (tmp_path / "here").write_text("")
    monkeypatch.setenv("TOKEN", "x")
    for text, expected in (
        ('id=a,"src=f,g"', Secret("a", f"{tmp_path}/f,g")),
        ("id=here", Secret("here", f"{tmp_path}/here")),
        ("id=TOKEN", Secret("TOKEN", env="TOKEN")),
        ("id=a,env=TOKEN", Secret("a", env="TOKEN")),
        ("type=env,id=a,source=TOKEN", Secret("a", env="TOKEN")),
        ("type=file,id=here", Secret("here", f"{tmp_path}/here")),
    ):
        assert request("--secret", text, ".").secrets == (expected,)


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("src=x", "has no id="),
        ("id=x,src=/nowhere", "/nowhere is no file that you can read"),
        ("id=x,env=NOT_SET", "the variable NOT_SET is not set"),
        ("id=x,src=a,env=b", "has both src= and env="),
        ("id=x,typ=file", "has the unknown key 'typ'"),
        ("x", "is not KEY=VALUE"),
    ),
)
def test_wrong_secrets_are_refused(text: str, message: str) -> None:
    assert message in refusal("--secret", text, ".")


def test_ssh_names_agents_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no agent runs" in refusal("--ssh", "default", ".")
    assert "is not there" in refusal("--ssh", f"git={tmp_path}/key", ".")
    (tmp_path / "key").write_text("")
    found = request("--ssh", f"git={tmp_path}/key", ".")
    assert found.ssh == (Agent("git", (f"{tmp_path}/key",)),)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/x")
    assert request("--ssh", "default", ".").ssh == (Agent("default"),)


@pytest.mark.parametrize(
    ("argv", "message"),
    (
        ([], "needs at least an argument"),
        (["a", "b"], "takes at most 1 argument"),
        ([""], "the context is empty"),
        (["-f", "-", "-"], "cannot both be standard input"),
        (["-q", "--progress", "plain", "."], "contradict each other"),
        (["-t", "UPPER", "."], "UPPER"),
        (["-t", "a@sha256:" + "0" * 64, "."], "is not a name for an image"),
        (["--build-arg", "=x", "."], "has no name"),
        (["--build-context", "x", "."], "is not NAME=SOURCE"),
        (["--network", "bridge", "."], "a build has a network of its own"),
        (["--allow", "all", "."], "all"),
        (["--userns", "keep-id", "."], "keep-id"),
        (["-o", "type=ftp", "."], "is not known"),
        (["--push", "."], "needs a name"),
        (["--attest", "type=sbom", "."], "--attest"),
        (["--sbom", "true", "."], "syft"),
        (["--provenance", "mode=max", "."], "--provenance=mode=max"),
        (["--cache-from", "type=gha", "."], "--cache-from"),
        (["--check", "--call=outline", "."], "--call=outline"),
        (["--call=check,form=json", "."], "form=json"),
        (["--rm=false", "."], "--rm=false"),
    ),
)
def test_what_cannot_be_done_is_refused_by_name(argv: list[str], message: str) -> None:
    told = refusal(*argv)
    assert message in told
    assert "\n" not in told


def test_what_changes_nothing_is_accepted() -> None:
    argv = ("--rm", "--force-rm", "--compress", "--layers", "--call=build", "--provenance=false")
    argv = (*argv, "--sbom=false", "--debug", "--check=false", "--squash=false")
    assert request(*argv, ".") == BuildRequest(context=".")


def test_layers_false_is_squash() -> None:
    for word in ("--squash", "--layers=false"):
        assert request(word, ".") == BuildRequest(context=".", squash=True)


def test_progress_can_be_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDKIT_PROGRESS", "plain")
    assert request(".").progress == "plain"
    assert request("-q", ".").progress == request("--progress=quiet", ".").progress == "quiet"


def test_quiet_is_a_form_of_progress() -> None:
    for argv in (("-q",), ("--progress=quiet",), ("-q", "--progress=auto")):
        assert request(*argv, ".").progress == "quiet"
