"""The digests of a context's files: what is remembered, and what makes a file be read again."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from rootless.engine.build import hashes
from rootless.engine.build.hashes import Hashes

if TYPE_CHECKING:
    from pathlib import Path

NOW = time.time_ns


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_text("before")
    return found


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows ten seconds more than that of the file system."""
    monkeypatch.setattr(hashes.time, "time_ns", lambda: NOW() + 10**10)


def note(file: Path, records: Path) -> None:
    """Have the file read, and what it has written down."""
    noted = Hashes(str(records))
    with open(file, "rb") as stream:
        assert noted.read(stream.fileno()) == hashlib.sha256(file.read_bytes()).digest()
    noted.save()


def found(file: Path, records: Path) -> bytes | None:
    return Hashes(str(records)).find(os.stat(file))


@pytest.mark.usefixtures("later")
def test_file_that_has_not_changed_is_known(file: Path, tmp_path: Path) -> None:
    note(file, tmp_path / "known" / "records")
    assert found(file, tmp_path / "known" / "records") == hashlib.sha256(b"before").digest()


@pytest.mark.usefixtures("later")
def test_change_that_keeps_size_and_time_is_seen(file: Path, tmp_path: Path) -> None:
    """As of a tool that sets the time back: the time of the change of the inode tells."""
    records = tmp_path / "known" / "records"
    note(file, records)
    status = os.stat(file)
    file.write_text("beyond")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(file).st_mtime_ns == status.st_mtime_ns
    assert found(file, records) is None


def test_file_that_was_changed_just_now_is_not_remembered(file: Path, tmp_path: Path) -> None:
    """It could change once more within a tick of the file system's clock."""
    note(file, tmp_path / "known" / "records")
    assert found(file, tmp_path / "known" / "records") is None


@pytest.mark.usefixtures("later")
def test_records_that_were_cut_short_are_given_up(file: Path, tmp_path: Path) -> None:
    records = tmp_path / "known" / "records"
    note(file, records)
    records.write_bytes(records.read_bytes()[:-1])
    assert found(file, records) is None
    note(file, records)
    assert found(file, records) is not None
    assert records.stat().st_mode & 0o077 == 0
