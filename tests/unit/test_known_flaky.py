"""tests/known-flaky: its rules, and its effect on a run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lib import known_flaky

if TYPE_CHECKING:
    from pathlib import Path

THIS = "tests/unit/test_known_flaky.py"


def test_list_is_well_formed() -> None:
    listed = known_flaky.read((known_flaky.TREE / "tests/known-flaky").read_text("utf-8"))
    security = (known_flaky.TREE / "docs/security.md").read_text("utf-8")
    assert known_flaky.faults(listed, security) == []


def test_line_is_a_date_an_id_and_a_cause() -> None:
    text = "# why\n\n2026-01-02  tests/a.py::test_b[c]  the kernel is late\n"
    assert known_flaky.read(text) == {
        "tests/a.py::test_b[c]": "the kernel is late (known since 2026-01-02)"
    }


@pytest.mark.parametrize(
    "line", ["2026-01-02 tests/a.py::test_b", "2026-01-02 a cause", "today tests/a.py::test_b why"]
)
def test_line_without_a_part_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        known_flaky.read(line)


def test_at_most_five_tests_are_listed() -> None:
    names = [test for test in globals() if test.startswith("test_")]
    listed = {f"{THIS}::{name}": "why" for name in names[:5]}
    assert known_flaky.faults(listed, "") == []
    listed[f"{THIS}::{names[5]}"] = "why"
    assert known_flaky.faults(listed, "") == ["6 tests are listed, at most 5 may be"]


def test_attack_class_is_never_flaky() -> None:
    test = f"{THIS}::test_attack_class_is_never_flaky"
    security = f"| 1 | links | none | here | `{THIS.removeprefix('tests/')}` |"
    assert known_flaky.faults({test: "why"}, security) == [f"{test}: docs/security.md names {THIS}"]


def test_listed_test_must_exist() -> None:
    test = f"{THIS}::test_gone"
    assert known_flaky.faults({test: "why"}, "") == [f"{test}: there is no such test"]


def test_only_an_unknown_failure_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/known-flaky").write_text("2026-01-02 test_it.py::test_known a slow kernel\n")
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\n"
        "from tests.lib import known_flaky\n"
        f"known_flaky.TREE = Path({str(tmp_path)!r})\n"
        "pytest_collection_modifyitems = known_flaky.pytest_collection_modifyitems\n"
    )
    file = tmp_path / "test_it.py"
    known = "def test_known():\n    assert False\n"

    def run(text: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text)
        argv = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--rootdir=."]
        environment = {**os.environ, "PYTHONPATH": str(known_flaky.TREE)}
        environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
        return subprocess.run(
            [*argv, "test_it.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = run(known)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "known flaky: a slow kernel (known since 2026-01-02)" in done.stdout
    assert run(known + "def test_unknown():\n    assert False\n").returncode == 1
