"""The list tests/known-flaky: a test on it that fails is reported, and does not fail the run.

It is a test with `xfail`, not strict, whose reason is the cause in the list. A test that hangs is
ended by tests/lib/watch.py, and fails the run all the same.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parent.parent.parent
MOST = 5


def read(text: str) -> dict[str, str]:
    """Return test id -> cause and date, of the text of a list.

    Raises:
        ValueError: a line is not DATE ID CAUSE.
    """
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=2)
        if len(words) < 3 or "::" not in words[1]:
            raise ValueError(f"tests/known-flaky: not a date, a test id and a cause: {line}")
        date = datetime.date.fromisoformat(words[0])
        found[words[1]] = f"{words[2]} (known since {date})"
    return found


def faults(listed: dict[str, str], security: str) -> list[str]:
    """Return what is wrong with a list.

    Args:
        security: the text of docs/security.md, which names tests by their path below tests/.
    """
    found = []
    if len(listed) > MOST:
        found.append(f"{len(listed)} tests are listed, at most {MOST} may be")
    attacks = set(re.findall(r"`(?:tests/)?([\w/]+\.py)", security))
    for test in listed:
        path, _, name = test.partition("::")
        if path.removeprefix("tests/") in attacks:
            found.append(f"{test}: docs/security.md names {path}")
        file = TREE / path
        function = name.split("[")[0].split("::")[-1]
        if not file.is_file() or f"def {function}(" not in file.read_text("utf-8"):
            found.append(f"{test}: there is no such test")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the list."""
    listed = read((TREE / "tests/known-flaky").read_text("utf-8"))
    for item in items:
        cause = listed.get(item.nodeid) or listed.get(item.nodeid.split("[")[0])
        if cause:
            item.add_marker(pytest.mark.xfail(reason=f"known flaky: {cause}", strict=False))
