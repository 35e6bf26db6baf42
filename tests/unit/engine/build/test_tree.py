"""Trees that change while they are looked at, and files of users that may be anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.engine.build import run, tree
from rootless.engine.build.copy import owner_of
from rootless.engine.build.sources import select_tree
from rootless.errors import RlessError

_USERS = b"user:x:7:8::/home:/bin/sh\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "file").write_text("inside")
    return tmp_path / "root"


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def swap(root: Path, name: str) -> None:
    """Put a link out in place of what was found."""
    os.rename(root / name, root / "old")
    (root / name).symlink_to("../../outside/file" if "/" in name else "../outside")


def test_link_that_is_swapped_in_leads_nowhere(root: Path, root_fd: int) -> None:
    """Class 70: what was looked up is opened through no link."""
    selection = select_tree(root_fd, "d/file")
    assert tree.find(root_fd, b"d/file").path == b"d/file"
    swap(root, "d")
    with pytest.raises(RlessError, match="/d: "):
        tree.open_directory(root_fd, b"d")
    assert tree.open_path(root_fd, b"d") == -1
    with pytest.raises(RlessError):
        selection.digest()


def test_file_that_becomes_a_link_is_not_read(root: Path, root_fd: int) -> None:
    """Class 70."""
    selection = select_tree(root_fd, "d/file")
    for _, entry in selection.entries(selection.sources[0]):
        swap(root, "d/file")
        assert entry.open() == -1


def make(root: Path, kind: str) -> None:
    path = root / "etc" / "passwd"
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(_USERS + b"#" * (1 << 20))
    elif kind == "directory":
        path.mkdir()
    else:
        (root.parent / "outside" / "passwd").write_bytes(_USERS)
        path.symlink_to(kind.format(root.parent / "outside" / "passwd"))


@pytest.mark.parametrize("kind", ["fifo", "huge", "directory", "{}", "../../outside/passwd"])
def test_passwd_of_an_image_may_be_anything(root: Path, root_fd: int, kind: str) -> None:
    """Class 69: no user is found in it, and nothing waits."""
    make(root, kind)
    with pytest.raises(RlessError, match="user|passwd"):
        owner_of("user", lambda: root_fd)
    if kind.startswith(("{", ".")):
        assert run.read_users(root_fd, "passwd") == b""
    else:
        with pytest.raises(RlessError, match="/etc/passwd of the image is"):
            run.read_users(root_fd, "passwd")


def test_passwd_behind_a_link_in_the_image_is_read(root: Path, root_fd: int) -> None:
    make(root, "/d/passwd")
    (root / "d" / "passwd").write_bytes(_USERS)
    assert run.read_users(root_fd, "passwd") == _USERS
    assert owner_of("user", lambda: root_fd) == (7, 8)
