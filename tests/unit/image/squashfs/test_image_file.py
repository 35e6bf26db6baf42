"""Which files of `image-path` are trusted (security class 47)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.squashfs import image_file


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of `image-path` with a file, one in a directory, and a link to a third."""
    shelf, elsewhere = tmp_path / "shelf", tmp_path / "elsewhere"
    for directory in (shelf, shelf / "lab", elsewhere):
        directory.mkdir()
        directory.chmod(0o755)
    for file in (shelf / "tool.sqsh", shelf / "lab/tool.sqsh", elsewhere / "real.sqsh"):
        file.write_bytes(b"")
        file.chmod(0o644)
    (shelf / "link.sqsh").symlink_to(elsewhere / "real.sqsh")
    monkeypatch.setenv("RLESS_IMAGE_PATH", str(shelf))
    return shelf


def test_files_closed_to_others_are_found(shelf: Path) -> None:
    for name in ("tool", "lab/tool", "link"):
        assert image_file.search(name) == f"{shelf}/{name}.sqsh"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tool", "shelf"),
        ("tool", "shelf/tool.sqsh"),
        ("lab/tool", "shelf"),
        ("lab/tool", "shelf/lab"),
        ("lab/tool", "shelf/lab/tool.sqsh"),
        ("link", "shelf"),
        ("link", "elsewhere"),
        ("link", "elsewhere/real.sqsh"),
    ],
)
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_can_write_is_refused(
    shelf: Path, tmp_path: Path, name: str, place: str, bits: int
) -> None:
    path = tmp_path / place
    path.chmod(path.stat().st_mode | bits)
    with pytest.raises(RlessError, match=f"{path} can be written by others"):
        image_file.search(name)
