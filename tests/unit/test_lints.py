"""scripts/lint-words and scripts/lint-tree."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parent.parent.parent


def script(name: str) -> Any:
    """Return a script as a module."""
    spec = spec_from_loader(name, SourceFileLoader(name, str(TREE / "scripts" / name)))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORDS = script("lint-words")


@pytest.mark.parametrize(
    "text", ["le" + "ash", "Le" + "ash it", "le" + "ash_fd", "_le" + "ash", "StopLe" + "ash"]
)
def test_retired_word_is_found_in_any_spelling(text: str) -> None:
    assert len(WORDS.offences("rootless/a.py", f"\n{text}", WORDS.GONE)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "it stands in front of",
        "keep the entry",
        "the order of layers",
        "WireGuard",
        "a trial and error",
        "--label tier=front",
        "rless network connect --alias www front web",
    ],
)
def test_ordinary_english_is_left_alone(text: str) -> None:
    assert WORDS.offences("rootless/a.py", text, WORDS.GONE) == []


def test_retired_word_is_found_in_the_name_of_a_file() -> None:
    path = "rootless/engine/" + "am" + "end.py"
    assert WORDS.offences(path, "", WORDS.GONE) != []


def _tree(root: Path) -> Any:
    lint = script("lint-tree")
    for folder in ("docs", "tests", "rootless/a", "helpers"):
        (root / folder).mkdir(parents=True)
    for file in ("docs/glossary.md", "docs/security.md", "tests/known-flaky"):
        (root / file).write_text("")
    lint.TREE = root
    assert lint.faults() == []
    return lint


def test_long_module_is_refused(tmp_path: Path) -> None:
    lint = _tree(tmp_path)
    (tmp_path / "helpers/a.c").write_text("\n" * 600)
    assert lint.faults() == []
    (tmp_path / "helpers/a.c").write_text("\n" * 601)
    assert lint.faults() == ["helpers/a.c: 601 lines, at most 600"]


def test_full_folder_is_refused(tmp_path: Path) -> None:
    lint = _tree(tmp_path)
    for number in range(32):
        (tmp_path / f"rootless/a/m{number}.py").touch()
    (tmp_path / "rootless/a/__init__.py").touch()
    assert lint.faults() == []
    (tmp_path / "rootless/a/one_more.py").touch()
    assert lint.faults() == ["rootless/a: 33 modules, at most 32"]


def test_long_glossary_is_refused(tmp_path: Path) -> None:
    lint = _tree(tmp_path)
    (tmp_path / "docs/glossary.md").write_text("- **word**: why\n" * 11)
    assert lint.faults() == ["docs/glossary.md: 11 words, at most 10"]


def test_flaky_test_without_a_cause_is_refused(tmp_path: Path) -> None:
    lint = _tree(tmp_path)
    (tmp_path / "tests/known-flaky").write_text("2026-01-02 tests/a.py::test_b\n")
    assert len(lint.faults()) == 1
