"""linux/cgroup, and what the launcher builds on to prime a move between control groups."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.linux import cgroup

pytestmark = pytest.mark.needs("delegated cgroup")


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group of ours, in another domain than we are in."""
    made = Path(os.environ["RLESS_TEST_CGROUP"]) / f"other-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()  # which only works with nobody in it


def test_thread_is_not_moved_to_another_domain(group: Path) -> None:
    """But the kernel takes the lock for moves before it finds that out."""
    before = cgroup.membership()
    with pytest.raises(OSError, match="not supported") as caught:
        (group / "cgroup.threads").write_text(str(os.getpid()))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert (group / "cgroup.procs").read_text() == ""
    assert cgroup.membership() == before


def test_caller_may_enter_a_group_of_ours(group: Path) -> None:
    assert cgroup.may_enter(str(group))
    child = os.fork()
    if child == 0:
        try:
            (group / "cgroup.procs").write_text("0")
        finally:
            os._exit(0 if cgroup.membership().endswith(group.name) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_caller_may_not_enter_by_way_of_a_group_of_others(group: Path) -> None:
    (group / "cgroup.procs").chmod(0o444)
    assert not cgroup.may_enter(str(group))
    assert not cgroup.may_enter(cgroup.root() or "")
