"""Archives that unpack to far too much, as sources of ADD and as contexts (class 59)."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless.engine.build.add import Archive
from rootless.engine.build.new_layer import NewLayer
from rootless.engine.build.remote import archive
from rootless.engine.build.steps import CopyStep, Origin
from rootless.errors import RlessError
from rootless.image.layer.tar_writer import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    Unpack = Callable[[Path], None]


def as_source(path: Path) -> None:
    step = CopyStep(number=1, text="ADD", created_by="ADD", line=1, end_line=1,
                    origin=Origin("context"), sources=("a",), destination="/", add=True)  # fmt: skip
    with open("/dev/null", "wb") as out, Archive(_open(path), "a", step) as source:
        source.unpack(NewLayer(TarWriter(out.fileno()), -1, (0, 0), lambda mode: mode), b"")


def as_context(path: Path) -> None:
    with open(path, "rb") as file:
        for _ in archive._ContextReader(file.fileno(), path.stat().st_size, "a"):
            pass


def _open(path: Path) -> int:
    import os

    return os.open(path, os.O_RDONLY)


@pytest.fixture(params=[as_source, as_context])
def unpack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Unpack:
    monkeypatch.setattr(archive, "BOMB_BYTES", 100_000)
    monkeypatch.setattr(archive, "BOMB_RATIO", 10)
    monkeypatch.setattr(archive, "BOMB_MEMBERS", 20)
    found: Unpack = request.param
    return found


def packed(path: Path, sizes: list[int], **more: str) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as made:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"f{number}")
            member.size = size
            member.pax_headers = {"comment": "x" * int(more.get("comment", 0))}
            made.addfile(member, io.BytesIO(bytes(size)))
    path.write_bytes(gzip.compress(data.getvalue()))
    return path


def test_honest_archive_is_unpacked(unpack: Unpack, tmp_path: Path) -> None:
    unpack(packed(tmp_path / "a", [1000] * 20))


def test_bytes_are_bounded(unpack: Unpack, tmp_path: Path) -> None:
    with pytest.raises(RlessError, match="far more than it should"):
        unpack(packed(tmp_path / "a", [100_001]))


def test_members_are_bounded(
    unpack: Unpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "BOMB_BYTES", 1_000_000)
    # For more than 20 of them, 32 bytes of the archive have to be there for each.
    path = packed(tmp_path / "a", [0] * 80)
    assert path.stat().st_size // archive.BOMB_BYTES_PER_MEMBER < 80
    with pytest.raises(RlessError, match="far more than it should"):
        unpack(path)


def test_what_is_no_content_is_bounded_too(unpack: Unpack, tmp_path: Path) -> None:
    with pytest.raises(RlessError, match="far more than it should"):
        unpack(packed(tmp_path / "a", [0] * 18, comment="10000"))
