"""Deletion of hostile trees (class 11): any depth, any mode, never outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.store.ownership import delete_any, everything
from rootless.linux import mount, tree
from rootless.linux.idmap import call_in_userns
from rootless.linux.tree import remove_tree


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    for name in os.listdir(tmp_path):
        delete_any(str(tmp_path), name)  # what a failed test left: pytest cannot


def make_deep(parent_fd: int, name: str, depth: int, mode: int = 0o700) -> None:
    """Make a chain of directories, far longer than PATH_MAX, with a file in each."""
    fd = os.dup(parent_fd)
    for _ in range(depth):
        os.mkdir(name, 0o700, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=below))
        if mode != 0o700:
            os.fchmod(fd, mode) if fd != parent_fd else None
        os.close(fd)
        fd = below
    os.close(fd)


def test_missing_tree_is_no_error(parent: int) -> None:
    remove_tree(parent, "nothing")


def test_files_links_and_pipes_are_deleted(parent: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep").write_text("x")
    (tmp_path / "t").mkdir()
    (tmp_path / "t/link").symlink_to(victim)
    (tmp_path / "t/dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "t/pipe")
    (tmp_path / "t/n\udcff\n").write_text("x")
    (tmp_path / "alone").write_text("x")
    (tmp_path / "link").symlink_to(victim)
    for name in ("t", "alone", "link"):
        remove_tree(parent, name)
    assert os.listdir(tmp_path) == ["victim"]
    assert (victim / "keep").read_text() == "x"


def test_tree_of_any_depth_is_deleted(parent: int, tmp_path: Path) -> None:
    make_deep(parent, "d" * 200, 3000)
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(parent, "d" * 200)
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) <= before


def test_deletion_needs_few_descriptors(parent: int, tmp_path: Path) -> None:
    import resource

    make_deep(parent, "d", 500)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
    try:
        remove_tree(parent, "d")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_unreadable_directories_are_deleted(parent: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    for name in ("a/b/c", "a/x", "y"):
        (path / name).mkdir(parents=True)
        (path / name / "f").write_text("x")
    for directory, _, _ in os.walk(path, topdown=False):
        os.chmod(directory, 0)
    remove_tree(parent, "t")
    assert os.listdir(tmp_path) == []


def test_wide_directories_are_deleted(parent: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.mkdir()
    for number in range(5000):
        (path / f"{number}").touch()
    remove_tree(parent, "t")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_path_instead_of_a_name_is_refused(parent: int, name: str) -> None:
    with pytest.raises(RlessError, match="not the name of a file"):
        remove_tree(parent, name)


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_mounts_are_not_entered(parent: int, tmp_path: Path) -> None:
    """A directory of the host that is bound into the tree survives its bundle."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/keep").write_text("x")
    (tmp_path / "t/mnt").mkdir(parents=True)
    with pytest.raises(RlessError):
        call_in_userns(everything(), _bind_and_remove, str(tmp_path), parent)
    assert (tmp_path / "host/keep").read_text() == "x"


def _bind_and_remove(directory: str, parent_fd: int) -> None:
    mount.mount(f"{directory}/host", f"{directory}/t/mnt", None, mount.MS_BIND, None)
    # The descriptor must be of this mount namespace to see its mounts.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(fd, "t")


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_trees_of_other_ids_are_deleted(parent: int, tmp_path: Path) -> None:
    call_in_userns(everything(), _make_foreign, str(tmp_path))
    with pytest.raises(RlessError, match=r"cannot delete|[Pp]ermission"):
        remove_tree(parent, "t")
    call_in_userns(everything(), remove_tree, parent, "t")
    assert os.listdir(tmp_path) == []


def _make_foreign(directory: str) -> None:
    os.makedirs(f"{directory}/t/a/b")
    Path(f"{directory}/t/a/b/f").write_text("x")
    for name in ("t/a/b/f", "t/a/b", "t/a", "t"):
        os.chown(f"{directory}/{name}", 1234, 1234)
        os.chmod(f"{directory}/{name}", 0)


def test_directory_moved_during_deletion_does_not_lead_out(
    parent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody moves the directory that is being emptied: its new parent is left alone."""
    victim = tmp_path / "victim"
    (tmp_path / "t/outer/a/below").mkdir(parents=True)
    (tmp_path / "t/outer/b/below").mkdir(parents=True)
    for name in ("a", "b"):
        (victim / name).mkdir(parents=True)
        (victim / name / "keep").write_text("x")
    empty = tree._empty

    def move(fd: int, here: bytes) -> list[bytes]:
        # In the first directory that is entered below: it goes to the victim's.
        if here == b"below" and not (victim / "moved").exists():
            current = os.readlink(f"/proc/self/fd/{fd}")
            os.rename(os.path.dirname(current), victim / "moved")
        return empty(fd, here)

    monkeypatch.setattr(tree, "_empty", move)
    with pytest.raises(RlessError, match="moved meanwhile"):
        remove_tree(parent, "t")
    assert sorted(path.name for path in victim.iterdir()) == ["a", "b", "moved"]
    assert (victim / "a/keep").exists() and (victim / "b/keep").exists()
