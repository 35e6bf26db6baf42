"""The host's time zone in a root file system: a file of its own, and never a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.engine.spec import etc_files


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of the file in a root; a file that each host has stands in for it."""
    monkeypatch.setattr(etc_files, "_LOCALTIME", "/etc/passwd")
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "passwd"


def test_link_is_replaced_and_what_it_led_to_stays(zone: Path, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "UTC").write_text("utc")
    zone.symlink_to("/usr/UTC")
    etc_files.place_localtime(str(tmp_path))
    assert not zone.is_symlink()
    assert zone.read_bytes() == Path("/etc/passwd").read_bytes()
    assert (tmp_path / "usr" / "UTC").read_text() == "utc"


def test_same_zone_stays_as_it_is(zone: Path, tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(Path("/etc/passwd").read_bytes())
    zone.symlink_to("../same")
    etc_files.place_localtime(str(tmp_path))
    assert zone.is_symlink()


def test_directory_and_missing_parent_are_no_failure(zone: Path, tmp_path: Path) -> None:
    zone.mkdir()
    etc_files.place_localtime(str(tmp_path))
    assert zone.is_dir()
    zone.rmdir()
    zone.parent.rmdir()
    etc_files.place_localtime(str(tmp_path))
    assert not zone.parent.exists()


def test_host_without_a_zone_changes_nothing(
    zone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etc_files, "_LOCALTIME", "/etc/no such file")
    zone.write_text("the image's")
    etc_files.place_localtime(str(tmp_path))
    assert zone.read_text() == "the image's"
