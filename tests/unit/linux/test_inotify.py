"""Changes of files, told by the kernel."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.linux.inotify import Inotify, watching


def test_changes_in_a_directory_are_told(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with Inotify() as changes:
        first, second = changes.watch(str(one)), changes.watch(str(other))
        assert changes.watch(str(one)) == first != second
        assert changes.read() == set()
        (one / "file").write_text("x")
        assert changes.read() == {first}
        with (one / "file").open("a") as file:
            file.write("y")
        (one / "file").rename(other / "file")
        assert changes.read() == {first, second}
        changes.forget(first)
        changes.read()  # the kernel says that the watch has ended
        (one / "more").write_text("")
        assert changes.read() == set()


def test_wait_ends_at_a_change_or_in_time(tmp_path: Path) -> None:
    changes = watching(str(tmp_path))
    assert changes is not None
    with changes:
        (tmp_path / "a").write_text("")
        begun = time.monotonic()
        assert changes.wait(60)
        assert time.monotonic() - begun < 30
        assert not changes.wait(0.01)


def test_what_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    assert watching(str(tmp_path / "none")) is None
    (tmp_path / "file").write_text("")
    before = len(os.listdir("/proc/self/fd"))
    with Inotify() as changes, pytest.raises(RlessError, match="Not a directory"):
        changes.watch(str(tmp_path / "file"))
    assert len(os.listdir("/proc/self/fd")) == before
