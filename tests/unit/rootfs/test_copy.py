"""Copying keeps holes, and concurrent changes of the target do not lead out."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from rootless.errors import RlessError
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
def test_contents_and_holes_are_copied(
    tmp_path: Path, parts: list[tuple[int, bytes | None]]
) -> None:
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
def test_whiteout_never_leaves_its_directory(tmp_path: Path, name: str) -> None:
    """Class 4: `.wh...` names the parent, `.wh..` the directory itself."""
    target = tmp_path / "target"
    (tmp_path / "outside").write_text("kept")
    copy.apply(layer(tmp_path / "one", "a/kept"), layer(target))
    copy.apply(layer(tmp_path / "two", f"a/{name}"), str(target))
    assert (target / "a" / "kept").exists()
    assert os.listdir(target / "a") == ["kept"]
    assert (tmp_path / "outside").exists()


def test_link_in_a_lower_layer_is_replaced_not_followed(tmp_path: Path) -> None:
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


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "host" / "volume").mkdir(parents=True)
    return tmp_path / "host" / "volume"


def test_security_class_18_moved_directory_does_not_lead_out(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way up from a directory that was moved towards the top ends outside of the volume."""
    for path in ("a/b/c/marker", *(f"a/evil{number}/file" for number in range(9))):
        (tmp_path / "image" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "image" / path).write_text("evil")
    original = copy._Walk._copy

    def move(walk: copy._Walk, name: bytes, status: os.stat_result) -> None:
        original(walk, name, status)
        if name == b"marker":
            (volume / "a/b/c").rename(volume / "c")

    monkeypatch.setattr(copy._Walk, "_copy", move)
    with pytest.raises(RlessError, match="moved meanwhile"):
        copy.apply(str(tmp_path / "image"), str(volume))
    assert os.listdir(volume.parent) == ["volume"]


def test_security_class_18_hard_link_does_not_lead_out(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a file's first name may be a link by the time of its second one."""
    (volume.parent / "key").write_text("secret")
    for name in ("1", "2"):  # which of them comes first is the file system's choice
        (tmp_path / "image" / name).mkdir(parents=True)
    (tmp_path / "image/1/key").write_text("public")
    os.link(tmp_path / "image/1/key", tmp_path / "image/2/key")
    original = copy._Walk._leave

    def swap(walk: copy._Walk) -> None:
        name = os.fsdecode(walk.frames[-1].name)
        original(walk)
        if len(walk.frames) == 1 and not (volume / "aside").exists():
            (volume / name).rename(volume / "aside")
            (volume / name).symlink_to(volume.parent)

    monkeypatch.setattr(copy._Walk, "_leave", swap)
    copy.apply(str(tmp_path / "image"), str(volume))
    assert "public" in {path.read_text() for path in volume.glob("[12]/key")}
    assert os.stat(volume.parent / "key").st_nlink == 1


def test_security_class_18_fifo_swapped_for_a_link_changes_no_mode(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = volume.parent / "key"
    key.touch(0o600)
    (tmp_path / "image").mkdir()
    os.mkfifo(tmp_path / "image" / "fifo", 0o666)
    original = copy._Walk._set_by_name

    def swap(walk: copy._Walk, name: bytes, status: os.stat_result) -> None:
        original(walk, name, status)
        (volume / "fifo").unlink()
        (volume / "fifo").symlink_to(key)

    monkeypatch.setattr(copy._Walk, "_set_by_name", swap)
    copy.apply(str(tmp_path / "image"), str(volume))
    assert key.stat().st_mode & 0o777 == 0o600


def test_fifo_and_hard_link_are_copied(tmp_path: Path) -> None:
    image, target = tmp_path / "image", tmp_path / "target"
    (image / "d").mkdir(parents=True)
    target.mkdir()
    os.mkfifo(image / "fifo", 0o600)
    os.chmod(image / "fifo", 0o622)
    (image / "d" / "one").write_text("x")
    os.link(image / "d" / "one", image / "d" / "two")
    os.link(image / "d" / "one", image / "three")
    copy.apply(str(image), str(target))
    status = os.lstat(target / "fifo")
    assert stat.S_ISFIFO(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o622
    assert {os.stat(target / name).st_ino for name in ("d/one", "d/two", "three")} == {
        os.stat(target / "three").st_ino
    }
