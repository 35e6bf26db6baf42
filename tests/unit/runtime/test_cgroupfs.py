"""rootless/runtime/cgroup/cgroupfs.py: which groups are ours to divide; tests/vm has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.runtime.cgroup import cgroupfs


def make(directory: Path) -> Path:
    directory.mkdir()
    (directory / "cgroup.procs").touch()
    return directory


def test_line_begins_with_the_topmost_group_of_ours(tmp_path: Path) -> None:
    """Controllers come down from it, one group at a time."""
    top = make(tmp_path / "top")
    low = make(make(top / "a") / "b")
    group = cgroupfs.Group(str(low), "asked for")
    assert [one.directory for one in group.line()] == [str(top), str(top / "a"), str(low)]


def test_path_must_lie_below_a_group_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make(tmp_path / "top")
    own = make(make(top / "user") / "session")
    foreign = tmp_path / "top" / "foreign"
    foreign.mkdir()  # without a file that we may write
    monkeypatch.setattr(cgroupfs, "root", lambda: str(top))
    monkeypatch.setattr(cgroupfs, "find_own", lambda: str(own))
    for path in ("/a", "/a/b/c", "/user/a", "/user/session/a"):
        assert cgroupfs.can_hold(path), path
    for path in ("/foreign/a", "/foreign/a/b", "/user/../a", "/.."):
        assert not cgroupfs.can_hold(path), path
    (top / "cgroup.procs").unlink()
    assert cgroupfs.can_hold("/user/a")
    for path in ("/a", "/users/a"):
        assert not cgroupfs.can_hold(path), path
