"""linux/cgroup: priming the kernel's cgroup migration without moving a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.linux import cgroup

pytestmark = pytest.mark.needs("delegated cgroup", "compiler")


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group of ours, in another domain than we are in."""
    made = Path(os.environ["RLESS_TEST_CGROUP"]) / f"other-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()  # which only works with nobody in it


def test_priming_moves_no_process(group: Path) -> None:
    before = cgroup.membership()
    child = cgroup.prime_migration(str(group))
    assert child
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1  # EOPNOTSUPP: a thread stays in its domain
    assert (group / "cgroup.procs").read_text() == ""
    assert cgroup.membership() == before


def test_caller_may_move_into_the_group(group: Path) -> None:
    """Then the kernel would not have got as far as to wait."""
    child = os.fork()
    if child == 0:
        try:
            (group / "cgroup.procs").write_text("0")
        finally:
            os._exit(0 if cgroup.membership().endswith(group.name) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.access(group / "cgroup.threads", os.W_OK)


def test_priming_tolerates_a_missing_program_or_group(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = cgroup.prime_migration(f"{group}/none")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    monkeypatch.setattr(cgroup, "_PRIME_CGROUP", "rless-nothing")
    assert cgroup.prime_migration(str(group)) == 0
