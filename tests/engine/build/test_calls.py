"""`build --check` and `--call`: answers about a Dockerfile, for which nothing is pulled or run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lib.product import Product


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(
        "# VERSION to take\n"
        "ARG VERSION=1\n"
        "FROM no.such/image:${VERSION} AS Tool\n"
        "COPY data /\n"
        "# default is the last\n"
        "FROM tool AS default\n"
        'CMD ["x"]\n'
    )
    return tmp_path


def test_check_shows_what_it_finds(rless: Product, context: Path) -> None:
    (context / ".dockerignore").write_text("data\n")
    ran = rless("build", "--check", str(context))
    assert ran.code == 1
    assert ran.out.startswith("Check complete, 2 warnings have been found!\n\nWARNING: ")
    assert "StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/" in (
        ran.out
    )
    assert "WARNING: CopyIgnoredFile" in ran.out
    assert "4 | >>> COPY data /" in ran.out


def test_check_that_finds_nothing_succeeds(rless: Product, context: Path) -> None:
    words = ("--call=check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=StageNameCasing")
    ran = rless("build", *words, str(context)).expect()
    assert ran.out == "Check complete, no warnings found.\n"


def test_check_as_json(rless: Product, context: Path) -> None:
    ran = rless("build", "--call=check,format=json", str(context))
    found = json.loads(ran.out)
    assert ran.code == 1
    assert [one["ruleName"] for one in found["warnings"]] == ["StageNameCasing"]
    assert found["warnings"][0]["location"]["ranges"] == [
        {"start": {"line": 3}, "end": {"line": 3}}
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_check_says_what_is_wrong(rless: Product, context: Path, form: str) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPPY a b\n")
    ran = rless("build", f"--call=check,format={form}", str(context))
    assert ran.code == 1
    if form == "json":
        assert json.loads(ran.out)["buildError"]["location"]["ranges"][0]["start"]["line"] == 2
    else:
        assert ran.out.startswith("ERROR: Dockerfile line 2: COPPY is no instruction\n")
        assert "2 | >>> COPPY a b" in ran.out


def test_targets(rless: Product, context: Path) -> None:
    ran = rless("build", "--call=targets", str(context)).expect()
    lines = [line.split(maxsplit=2) for line in ran.out.splitlines()]
    assert lines == [["TARGET", "DESCRIPTION"], ["tool"], ["default", "(default)", "is the last"]]


def test_outline(rless: Product, context: Path) -> None:
    ran = rless("build", "--call=outline", "--target=tool", str(context)).expect()
    assert [line.split() for line in ran.out.splitlines()] == [
        ["TARGET:", "tool"],
        [],
        ["BUILD", "ARG", "VALUE", "DESCRIPTION"],
        ["VERSION", "1", "to", "take"],
    ]


def test_wrong_methods_are_refused(rless: Product, context: Path) -> None:
    assert rless("build", "--call=lint", str(context)).code == 125
    ran = rless("build", "--check", "--call=targets", str(context))
    assert (ran.code, "contradict" in ran.err) == (125, True)
    ran = rless("build", "--call=outline", "--target=none", str(context))
    assert (ran.code, "no stage" in ran.err) == (1, True)
