"""Platforms that fit a host."""

from __future__ import annotations

import os

import pytest

from rootless.errors import RlessError
from rootless.image.model.platforms import PlatformRequest, host_platform, parse_platform


class Machine:
    """Stand in for os.uname()."""

    def __init__(self, machine: str) -> None:
        self.machine = machine


@pytest.mark.parametrize(
    ("machine", "text"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64/v8"), ("armv7l", "linux/arm/v7")],
)
def test_platform_of_a_host_is_known(
    monkeypatch: pytest.MonkeyPatch, machine: str, text: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: Machine(machine))
    assert str(host_platform()) == text
    assert not parse_platform(text).explicit
    assert not parse_platform("linux").explicit
    assert not parse_platform(None).explicit


def test_arm_host_takes_the_best_variant() -> None:
    wanted = PlatformRequest("linux", "arm", "v7", explicit=False)
    ranks = {
        variant: wanted.rank("linux", "arm", variant) for variant in ("v8", "v7", "v6", "v5", "")
    }
    assert ranks["v8"] is None
    assert ranks["v7"] == ranks[""] == 0
    assert ranks["v6"] == 1 and ranks["v5"] == 2


def test_plain_arm64_is_v8() -> None:
    wanted = PlatformRequest("linux", "arm64", "v8", explicit=False)
    assert wanted.rank("linux", "arm64", "") == 0
    assert wanted.rank("linux", "arm64", "v8") == 0
    assert wanted.rank("linux", "arm", "v7") is None


def test_newer_instructions_only_on_request() -> None:
    host = PlatformRequest("linux", "amd64", "", explicit=False)
    assert host.rank("linux", "amd64", "v3") is None
    assert PlatformRequest("linux", "amd64", "v3", explicit=True).rank("linux", "amd64", "v3") == 0
    assert host.rank("windows", "amd64", "") is None


@pytest.mark.parametrize("text", ["linux/arm64", "arm64", "aarch64", "linux/aarch64"])
def test_spellings_are_normalized(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: Machine("x86_64"))
    wanted = parse_platform(text)
    assert (wanted.os, wanted.architecture, wanted.explicit) == ("linux", "arm64", True)


@pytest.mark.parametrize("text", ["a/b/c/d", "/", "linux/", "nonsense", "linux/\x1b", "x y"])
def test_wrong_platforms_are_refused(text: str) -> None:
    with pytest.raises(RlessError) as caught:
        parse_platform(text)
    assert caught.value.message.isprintable()
