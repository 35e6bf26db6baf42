"""Where rless keeps things: private directories (security class 42)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from rootless import paths
from rootless.errors import RlessError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_private_dir_is_created(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "a" / "b" / "c"
    before = os.umask(umask)
    try:
        paths.private_dir(str(path))
    finally:
        os.umask(before)
    assert [mode(one) for one in (path, *path.parents[:2])] == [0o700] * 3
    paths.private_dir(str(path))


def test_private_dir_refuses_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(RlessError, match="is not a directory"):
        paths.private_dir(str(tmp_path / "link"))
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(RlessError):
        paths.private_dir(str(tmp_path / "dangling"))
    assert not (tmp_path / "nothing").exists()


def test_private_dir_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RlessError, match="is not a directory"):
        paths.private_dir(str(tmp_path / "file"))
    with pytest.raises(RlessError, match="cannot make"):
        paths.private_dir(str(tmp_path / "file" / "below"))


@pytest.mark.needs("ordinary user")
def test_private_dir_refuses_a_foreign_owner() -> None:
    with pytest.raises(RlessError, match="/usr belongs to uid 0, not to you") as caught:
        paths.private_dir("/usr", "do this")
    assert caught.value.hint == "do this"
    with pytest.raises(RlessError, match="cannot make"):
        paths.private_dir("/usr/rless-test")


@pytest.mark.parametrize("wide", [0o750, 0o705, 0o720, 0o777, 0o1777])
def test_private_dir_refuses_a_wide_mode(tmp_path: Path, wide: int) -> None:
    path = tmp_path / "wide"
    path.mkdir()
    path.chmod(wide)
    with pytest.raises(RlessError, match=f"is open to other users .mode {wide:04o}") as caught:
        paths.private_dir(str(path))
    assert caught.value.hint == f"chmod 700 {path}"


def test_storage_root_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "own"))
    assert paths.storage_root() == str(tmp_path / "own")
    monkeypatch.delenv("RLESS_STORAGE")
    assert paths.storage_root() == str(tmp_path / "data" / "rless")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # to be ignored, says the specification
    assert paths.storage_root() == str(tmp_path / "home" / ".local/share/rless")
    assert mode(tmp_path / "home" / ".local/share/rless") == 0o700


def test_runtime_root_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "storage"))
    volatile = tmp_path / "run"
    volatile.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(volatile))
    assert paths.runtime_root() == str(volatile / "rless")
    of_this_boot = str(tmp_path / "storage" / "run" / paths.boot_id())
    for bad in ("", "relative", str(tmp_path / "missing"), "/usr"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", bad)
        assert paths.runtime_root() == of_this_boot
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(volatile))
    volatile.chmod(0o711)  # Podman does it
    assert paths.runtime_root() == str(volatile / "rless")
    assert mode(volatile / "rless") == 0o700
    volatile.chmod(0o770)
    assert paths.runtime_root() == of_this_boot
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths.runtime_root() == of_this_boot
    (tmp_path / "storage" / "run" / paths.boot_id()).chmod(0o755)  # as `rless` makes it
    assert paths.runtime_root() == of_this_boot


def test_missing_home_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    for name in ("HOME", "XDG_DATA_HOME", "RLESS_STORAGE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RlessError, match="no home directory") as caught:
        paths.storage_root()
    assert "RLESS_STORAGE" in (caught.value.hint or "")
