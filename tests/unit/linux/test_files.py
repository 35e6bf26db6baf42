"""Atomic writes: complete or absent, without leftovers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rootless.linux import files


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_write_replaces_whole_file_with_exact_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a longer text from before")
    files.write(str(path), b"new", mode=0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    files.write(str(path), b"private")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_default_mode_follows_umask(umask: int) -> None:
    assert files.default_mode() == 0o666 & ~umask
    assert os.umask(umask) == umask


def test_temporary_file_names_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "rename", lambda source, _: seen.append(source))
    files.write(str(tmp_path / "file"), b"")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files.write(str(tmp_path / "file"), b"", scratch=str(scratch))
    assert [os.path.dirname(name) for name in seen] == [str(tmp_path), str(scratch)]
    for name in seen:
        assert os.path.basename(name).startswith("file.")
        assert name.split(".")[-2:] == [str(os.getpid()), "tmp"]


def test_failed_write_keeps_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write(str(path), b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_new(str(tmp_path / "other"), b"new")
    assert caught.value.filename == str(tmp_path / "other")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    files.write(str(tmp_path / "file"), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_durable_write_syncs_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    rename, fsync = os.rename, os.fsync

    def watched_rename(source: str, target: str) -> None:
        calls.append("rename")
        rename(source, target)

    def watched_fsync(fd: int) -> None:
        calls.append(f"fsync {os.fstat(fd).st_size}")
        fsync(fd)

    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    files.write(str(tmp_path / "file"), b"1234", durable=True)
    files.write(str(tmp_path / "file"), b"1234")
    assert calls == ["fsync 4", "rename", "rename"]


def test_write_follows_no_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f"file.00000000.{os.getpid()}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write(str(tmp_path / "file"), b"new")
    assert victim.read_text() == "untouched"


def test_write_new_keeps_an_existing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert files.write_new(path, b"first")
    assert not files.write_new(path, b"second")
    assert Path(path).read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_write_new_survives_a_lost_nfs_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS server that is asked twice says EEXIST of the link that it has made."""
    link = os.link

    def linked_before(source: str, target: str) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)

    monkeypatch.setattr(os, "link", linked_before)
    assert files.write_new(str(tmp_path / "file"), b"ours")


# -- Output ------------------------------------------------------------------------------------


@pytest.fixture(params=["O_TMPFILE", "no O_TMPFILE"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no O_TMPFILE":
        opened = os.open

        def without(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return opened(path, flags, mode, **options)

        monkeypatch.setattr(os, "open", without)
    return str(request.param)


@pytest.mark.usefixtures("file_system")
def test_output_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in (b"first", b"second"):
        with files.Output(str(path), mode=0o640, durable=True) as file:
            os.write(file.fd, text)
            assert text == b"second" or not path.exists()
        assert path.read_bytes() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.usefixtures("file_system")
def test_failed_output_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.Output(str(path)) as file:
        os.write(file.fd, b"half")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="No space") as caught, files.Output(str(path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.usefixtures("file_system")
def test_output_follows_the_users_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with files.Output(str(tmp_path / "link")) as file:
        os.write(file.fd, b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_output_writes_into_a_device_as_it_is() -> None:
    with files.Output("/dev/null") as file:
        assert stat.S_ISCHR(os.fstat(file.fd).st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_output_refuses_a_directory(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught, files.Output(str(tmp_path)):
        pass
    assert caught.value.filename == str(tmp_path)


def test_new_output_has_no_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGKILL between two names would leave the first one."""
    linked: list[str] = []
    link = os.link

    def watch(source: str, name: str, **options: object) -> None:
        linked.append(name)
        link(source, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", watch)
    target = str(tmp_path / "saved")
    for text in (b"first", b"second"):
        with files.Output(target) as file:
            os.write(file.fd, text)
        assert Path(target).read_bytes() == text
        assert os.listdir(tmp_path) == ["saved"]
    assert linked[:2] == [target, target]
    assert len(linked) == 3
