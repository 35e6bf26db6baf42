"""rootless/linux/openat2.py: files created beneath a root stay beneath it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import SyscallError
from rootless.linux.openat2 import make_dirs, make_file, openat2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino


def expect(fd: int, path: Path) -> None:
    status = path.stat()
    assert identity(fd) == (status.st_dev, status.st_ino)


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/a/b/c", "a/b/c"),
        ("a/b", "a/b"),
        ("//a/./b/", "a/b"),
        ("/../../a", "a"),
        ("/a/../b", "b"),
        ("/", "."),
        ("", "."),
    ],
)
def test_directories_are_created(root: Path, root_fd: int, path: str, made: str) -> None:
    expect(make_dirs(root_fd, path), root / made)
    expect(make_dirs(root_fd, path), root / made)


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("/new", "new"),
        ("/new/deep", "new/deep"),
        ("../../new", "new"),
        ("sibling", "in/sibling"),
        ("/etc", "etc"),
        ("/first", "second/x"),
    ],
)
def test_dangling_links_are_resolved_inside(
    root: Path, root_fd: int, target: str, made: str
) -> None:
    (root / "in").mkdir()
    (root / "in/link").symlink_to(target)
    (root / "first").symlink_to("second/x")
    expect(make_dirs(root_fd, "/in/link/d"), root / made / "d")
    expect(make_file(root_fd, "/in/link/f"), root / made / "f")
    assert sorted(os.listdir(root.parent)) == ["root"]


@pytest.mark.parametrize("target", ["/file", "/new/deep/file", "../up", "/second"])
def test_files_are_created_through_links(root: Path, root_fd: int, target: str) -> None:
    (root / "in").mkdir()
    (root / "in/link").symlink_to(target)
    (root / "second").symlink_to("/third/x")
    made = "third/x" if target == "/second" else target.strip("./")
    expect(make_file(root_fd, "/in/link"), root / made)
    assert sorted(os.listdir(root.parent)) == ["root"]


def test_existing_files_are_kept(root: Path, root_fd: int) -> None:
    (root / "file").write_text("x")
    expect(make_file(root_fd, "/file"), root / "file")
    assert (root / "file").read_text() == "x"
    with pytest.raises(SyscallError) as caught:
        make_dirs(root_fd, "/file/x")
    assert caught.value.errno == errno.ENOTDIR


def test_circular_links_are_an_error(root: Path, root_fd: int) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    for number in range(50):
        (root / f"l{number}").symlink_to(f"l{number + 1}/x")
    for make in (make_dirs, make_file):
        for path in ("/a", "/a/b", "/l0", "/l0/x"):
            with pytest.raises(SyscallError) as caught:
                make(root_fd, path)
            assert caught.value.errno == errno.ELOOP


def test_fifo_does_not_block(root: Path, root_fd: int) -> None:
    os.mkfifo(root / "fifo")
    expect(make_file(root_fd, "/fifo"), root / "fifo")


def test_magic_links_are_refused() -> None:
    fd = os.open("/", os.O_PATH)
    with pytest.raises(SyscallError) as caught:
        openat2(fd, "/proc/self/cwd", os.O_PATH)
    assert caught.value.errno == errno.ELOOP
    os.close(fd)
