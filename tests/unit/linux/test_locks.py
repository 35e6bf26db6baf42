"""Locks between processes, also on file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from rootless.linux import locks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


def test_lock_excludes_others_until_unlock(path: str) -> None:
    first, second = locks.open_lock(path), locks.open_lock(path)
    assert locks.lock(first)
    assert locks.lock(second, wait=False) is False
    assert locks.lock(second, shared=True, wait=False) is False
    locks.unlock(first)
    assert locks.lock(second, shared=True)
    assert locks.lock(first, shared=True, wait=False)
    os.close(first)
    os.close(second)


def test_file_system_without_locks_is_reported(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    fd = locks.open_lock(path)
    assert locks.lock(fd) is None
    os.close(fd)
    with locks.Locked(path):
        pass  # the block runs


def test_lock_file_is_no_link(path: str, tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        locks.open_lock(path)
    assert not (tmp_path / "elsewhere").exists()


def test_removed_lock_file_is_noticed(path: str) -> None:
    fd = locks.open_lock(path)
    assert locks.is_at(fd, path)
    os.unlink(path)
    assert not locks.is_at(fd, path)
    os.close(locks.open_lock(path))
    assert not locks.is_at(fd, path)
    os.close(fd)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_block_holds_the_lock(path: str, kind: str) -> None:
    if kind == "directory":
        os.mkdir(path)
    with locks.Locked(path):
        fd = os.open(path, os.O_RDONLY)
        assert locks.lock(fd, wait=False) is False
    assert locks.lock(fd, wait=False)
    os.close(fd)
    with locks.Locked(path, shared=True), locks.Locked(path, shared=True):
        pass
