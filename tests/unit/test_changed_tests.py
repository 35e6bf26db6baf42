"""scripts/changed-tests: which tests a change touches."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def script() -> Any:
    """Return the script as a module."""
    loader = SourceFileLoader("changed_tests", str(TREE / "scripts/changed-tests"))
    spec = spec_from_loader("changed_tests", loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changed", "test"),
    [
        ("tests/unit/test_log.py", "tests/unit/test_log.py"),
        ("rootless/log.py", "tests/unit/test_log.py"),
        ("rootless/image/config/user.py", "tests/unit/image/config/test_user.py"),
        ("rootless/cli/verbs/container/cp.py", "tests/engine/files/test_cp.py"),
        ("helpers/networks/dns.c", "tests/kernel/test_networks.py"),
        ("tests/lib/known_flaky.py", "tests/unit/test_known_flaky.py"),
        ("tests/vm/conftest.py", "tests/vm"),
        ("docs/life.md", "tests/unit/docs"),
        ("scripts/changed-tests", "tests/unit/test_changed_tests.py"),
    ],
)
def test_change_touches(script: Any, changed: str, test: str) -> None:
    found = script.touched([changed])
    assert test in found or any(str(parent) in found for parent in Path(test).parents)


def test_change_of_a_module_leaves_most_tests_alone(script: Any) -> None:
    assert len(script.touched(["rootless/log.py"])) < 10


def test_imports_are_found_in_all_spellings(script: Any) -> None:
    text = "import a.b, c\nfrom d import (\n    e,\n    f as g,\n)\n    from h.i import j\n"
    assert {"a.b", "c", "d", "d.e", "d.f", "h.i.j"} <= script.imported(text)
