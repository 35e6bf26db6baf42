"""What docker and podman have that differs from rless: flags before the verb, versions, limits."""

from __future__ import annotations

import json
import os
import re

import pytest

from rootless import __version__, errors, log
from rootless.cli import main as rless
from rootless.cli.fronts.docker import main as docker
from rootless.cli.fronts.versions import API, NUMBERS
from rootless.cli.fronts.voice import VOICES, take_voice
from rootless.service.http import API_VERSION, version_text


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give back what a front changes in its process."""
    monkeypatch.setattr(errors, "voice", errors.voice)
    for kind in errors.voice:
        monkeypatch.setitem(errors.voice, kind, errors.voice[kind])
    request.addfinalizer(errors.spellings.clear)
    for name in (
        "DOCKER_CONFIG",
        "RLESS_STORAGE",
        "RLESS_CONTAINERS_CGROUP_MANAGER",
        "RLESS_DEBUG",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(log, "enabled", False)
    monkeypatch.setattr(log, "_collected", None)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collect the verbs that are run, and run none."""
    verbs: list[list[str]] = []
    monkeypatch.setattr(rless, "run_verb", lambda verb, args: verbs.append([verb, *args]) or 0)
    return verbs


def told(capfd: pytest.CaptureFixture[str], name: str, *words: str, code: int = 0) -> str:
    """Run a front and return what it wrote."""
    take_voice(name)
    assert docker.main(list(words), name) == code
    captured = capfd.readouterr()
    return captured.err if code else captured.out


@pytest.mark.parametrize("verb", ["run", "create"])
def test_limits_are_tried(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    docker.main([verb, "--cpus", "1", "image"], "docker")
    docker.main(["container", verb, "--limits", "enforce", "image"], "podman")
    monkeypatch.setenv("RLESS_FRONT_LIMITS", "enforce")
    docker.main([verb, "image"], "docker")
    docker.main(["ps", "-a"], "docker")
    assert ran == [
        [verb, "--limits=try", "--cpus", "1", "image"],
        [verb, "--limits=try", "--limits", "enforce", "image"],
        [verb, "--limits=enforce", "image"],
        ["ps", "-a"],
    ]


def test_limits_of_a_build_are_tried(ran: list[list[str]]) -> None:
    for words in (["build"], ["image", "build"], ["builder", "build"], ["buildx", "build"]):
        docker.main([*words, "--memory", "1g", "."], "docker")
    assert ran == [["build", "--limits=try", "--memory", "1g", "."]] * 4


def test_flags_before_the_verb(ran: list[list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    told(capfd, "docker", "--config", "/c", "--log-level=error", "ps", "-a")
    assert os.environ["DOCKER_CONFIG"] == "/c"
    log.warn("of no interest")
    assert capfd.readouterr().err == ""
    told(
        capfd, "podman", "--root", "/s", "--cgroup-manager=cgroupfs", "run", "-v", "/a:/b", "image"
    )
    assert os.environ["RLESS_STORAGE"] == "/s"
    assert os.environ["RLESS_CONTAINERS_CGROUP_MANAGER"] == "cgroupfs"
    told(capfd, "docker", "-D", "ps")
    assert log.enabled
    assert [words[0] for words in ran] == ["ps", "run", "ps"]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("docker", "-H unix:///s ps", "docker: --host is not supported: there is no daemon; "),
        (
            "docker",
            "--context=other ps",
            "docker: --context is not supported: there is no daemon; ",
        ),
        ("podman", "--url unix:///s ps", "Error: --url is not supported: there is no daemon; "),
        ("podman", "--runroot /r ps", "Error: --runroot is not supported: what runs is on record"),
        ("podman", "--frob ps", "Error: unknown flag: --frob"),
        ("docker", "--log-level loud ps", "docker: --log-level loud is not known; one of debug"),
        ("podman", "frob", "Error: no such verb: frob"),
    ],
)
def test_what_is_refused(
    capfd: pytest.CaptureFixture[str], name: str, words: str, message: str
) -> None:
    assert told(capfd, name, *words.split(), code=125).startswith(message)


def test_version_of_docker(capfd: pytest.CaptureFixture[str]) -> None:
    text = told(capfd, "docker", "version")
    assert re.search(r"^ Version: +28\.0\.0$", text, re.M)
    assert re.search(r"^Server: rless\n Engine:\n  Version: +28\.0\.0$", text, re.M)
    assert told(capfd, "docker", "version", "--format", "{{.Server.Version}}") == "28.0.0\n"
    for form in ("json", "{{json .}}"):
        found = json.loads(told(capfd, "docker", "version", "-f", form))
        assert found["Client"]["Version"] == "28.0.0"
        named = {one["Name"]: one["Version"] for one in found["Server"]["Components"]}
        assert named == {"Engine": "28.0.0", "rless": __version__}
    assert told(capfd, "docker", "--log-level", "info", "-v").startswith("Docker version 28.0.0,")


def test_version_of_podman(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = f"5.4.0+rless.{__version__}"
    assert re.search(f"^Version: +{re.escape(number)}$", told(capfd, "podman", "version"), re.M)
    assert told(capfd, "podman", "version", "-f", "{{.Client.Version}}") == f"{number}\n"
    found = json.loads(told(capfd, "podman", "version", "--format", "json"))
    assert found["Client"]["APIVersion"] == "5.4.0"
    monkeypatch.setenv("RLESS_FRONT_VERSION", "4.9.3")
    assert told(capfd, "podman", "version", "-f", "{{.Client.Version}}") == "4.9.3\n"
    assert told(capfd, "podman", "--version") == "podman version 4.9.3\n"


def test_help_names_the_front(capfd: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--help",)):
        text = told(capfd, "podman", *words)
        assert text.startswith("Usage: podman [OPTIONS] VERB ...\n")
        assert "  run  " in text and "--root DIR" in text
    assert "Usage: docker volume VERB" in told(capfd, "docker", "volume")


def test_commands_in_texts_are_those_of_the_front(capfd: pytest.CaptureFixture[str]) -> None:
    for name, text, expected in (
        (
            "docker",
            "see `rless ps -a`, or rless needs more",
            "see `docker ps -a`, or rless needs more",
        ),
        ("podman", "use rless volume create", "use podman volume create"),
        (
            "docker",
            "see `rless service env`, /x/rless run",
            "see `rless service env`, /x/rless run",
        ),
        ("singularity", "see `apptainer sif list`", "see `singularity sif list`"),
        ("apptainer", "see `rless config show`", "see `rless config show`"),
        ("apptainer", "use `rless login`", "use `apptainer registry login`"),
        (
            "singularity",
            "log in: rless login a.b:5",
            "log in: singularity registry login docker://a.b:5",
        ),
    ):
        take_voice(name)
        assert errors.spoken(text) == expected
    said = told(capfd, "docker", "rm", code=125)
    assert said == "docker: 'docker rm' needs at least an argument; see 'docker rm --help'\n"


def test_api_is_that_of_the_service() -> None:
    assert version_text(API_VERSION) == API


def test_every_front_has_a_version_and_a_voice() -> None:
    assert VOICES.keys() == NUMBERS.keys()
