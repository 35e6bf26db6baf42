"""What was changed in a root that is a whole copy, where the kernel has not marked anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rootless.image.layer.changes import changes
from rootless.rootfs.stored import Part


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Return a copy of a layer with the files `f` and `same`, both touched since."""
    for directory in ("layer", "root"):
        (tmp_path / directory).mkdir()
        for name in ("f", "same"):
            path = tmp_path / directory / name
            path.write_text("text")
            os.setxattr(path, "user.kept", b"1")
            os.utime(path, ns=(0, 0))
    return Part(b"", str(tmp_path / "root"), [str(tmp_path / "layer")], whole=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.setxattr(path, "user.new", b""),
        lambda path: os.setxattr(path, "user.kept", b"2"),
        lambda path: os.removexattr(path, "user.kept"),
        lambda path: os.setxattr(path, "user.rless.owner", b"5:6"),
        lambda path: os.chmod(path, 0o700),
        lambda path: path.write_text("t3xt"),
    ],
)
def test_change_that_keeps_size_and_time_is_seen(
    part: Part, change: Callable[[Path], object]
) -> None:
    path = Path(part.upper) / "f"
    change(path)
    os.utime(path, ns=(0, 0))
    part.since = path.stat().st_ctime_ns  # in the very tick in which the copy was complete
    assert [(one.kind, one.path) for one in changes(part, ())] == [("C", b"f")]


def test_file_that_was_only_touched_is_none(part: Part) -> None:
    assert [*changes(part, ())] == []
