"""Walking a tree that is hostile or changes during the walk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.linux.filesystem import is_kernels
from rootless.linux.walk import open_file, walk


def names(root: Path) -> list[tuple[bytes, bool]]:
    fd = os.open(root, os.O_RDONLY)
    try:
        return [(entry.path, entry.leaving) for entry in walk(fd)]
    finally:
        os.close(fd)


def test_walk_is_ordered_and_visits_directories_twice(tmp_path: Path) -> None:
    for path in ("b", "a/x", "a/y/z"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "c").symlink_to("a")
    assert names(tmp_path) == [
        (b"", False), (b"a", False), (b"a/x", False), (b"a/y", False), (b"a/y/z", False),
        (b"a/y", True), (b"a", True), (b"b", False), (b"c", False), (b"", True),
    ]  # fmt: skip


def test_skipped_and_vanished_entries_are_tolerated(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    seen = []
    for entry in walk(fd):
        seen.append(entry.path)
        if entry.path == b"a":
            entry.skip = True
        if entry.path == b"b/x":
            (tmp_path / "c/x").unlink()
            (tmp_path / "c").rmdir()
            (tmp_path / "d").rename(tmp_path / "away")
            (tmp_path / "d").symlink_to("away")
    assert seen == [b"", b"a", b"a", b"b", b"b/x", b"b", b"d", b""]
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_abandoned_walk_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    steps = walk(fd)
    for entry in steps:
        if entry.path == b"a/b/c":
            break
    steps.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.mark.timeout(10)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Class 8: a FIFO would block, a link would lead elsewhere."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in (b"fifo", b"link", b"directory", b"none"):
        assert open_file(fd, name) == -1, name
    opened = open_file(fd, b"file")
    assert os.read(opened, 9) == b"x"
    os.close(opened)
    os.close(fd)


def test_kernel_file_systems_are_recognized(tmp_path: Path) -> None:
    for path, expected in (("/proc", True), ("/sys", True), (tmp_path, False), ("/", False)):
        fd = os.open(path, os.O_RDONLY)
        assert is_kernels(fd) is expected, path
        os.close(fd)
