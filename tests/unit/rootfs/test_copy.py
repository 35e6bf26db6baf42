"""Copying contents: holes stay holes, whatever the file system offers."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rootless.rootfs import copy

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture(params=["copy_file_range", "sendfile"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "sendfile":

        def refuse(*args: object) -> int:
            raise OSError(errno.EXDEV, "other file systems")

        monkeypatch.setattr(os, "copy_file_range", refuse)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(0, b"x")],
        [(0, os.urandom(3 * MIB + 17))],
        [(5 * MIB, b"end")],
        [(0, b"start"), (64 * MIB, os.urandom(MIB))],
        [(MIB, b"middle"), (32 * MIB, None)],
    ],
)
def test_contents_and_holes(tmp_path: Path, parts: list[tuple[int, bytes | None]]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for offset, data in parts:
            if data is None:
                file.truncate(offset)
            else:
                file.seek(offset)
                file.write(data)
    source_fd = os.open(source, os.O_RDONLY)
    target_fd = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        copy.copy_data(source_fd, target_fd, os.fstat(source_fd))
        assert os.fstat(target_fd).st_blocks <= os.fstat(source_fd).st_blocks + 16
    finally:
        os.close(source_fd)
        os.close(target_fd)
    assert target.read_bytes() == source.read_bytes()


def layer(path: Path, *names: str) -> str:
    path.mkdir()
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(path.name)
    return str(path)


@pytest.mark.parametrize("name", [".wh..", ".wh...", ".wh.", ".wh..wh.aufs", ".wh..wh..wh.x"])
def test_a_whiteout_never_leaves_its_directory(tmp_path: Path, name: str) -> None:
    """Class 4: `.wh...` names the parent, `.wh..` the directory itself."""
    target = tmp_path / "target"
    (tmp_path / "outside").write_text("kept")
    copy.apply(layer(tmp_path / "one", "a/kept"), layer(target))
    copy.apply(layer(tmp_path / "two", f"a/{name}"), str(target))
    assert (target / "a" / "kept").exists()
    assert os.listdir(target / "a") == ["kept"]
    assert (tmp_path / "outside").exists()


def test_a_link_in_a_lower_layer_is_replaced_not_followed(tmp_path: Path) -> None:
    """Class 2: a link to the outside, then files and whiteouts under its name."""
    outside = tmp_path / "outside"
    layer(outside, "secret")
    one = layer(tmp_path / "one")
    os.symlink(outside, f"{one}/dir")
    os.symlink(outside / "secret", f"{one}/file")
    two = layer(tmp_path / "two", "dir/secret", "dir/.wh.secret2", "dir/.wh..wh..opq", "file")
    target = layer(tmp_path / "target")
    copy.apply(one, target)
    copy.apply(two, target)
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "outside"
    assert os.listdir(f"{target}/dir") == ["secret"]
    assert not os.path.islink(f"{target}/file")
