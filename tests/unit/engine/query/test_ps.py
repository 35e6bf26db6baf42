"""The rows of ps: what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.engine.query import ps
from rootless.linux import files
from tests.lib.records import Records

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_container_that_does_not_run_is_at_most_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "storage"))
    records = Records(tmp_path / "storage")
    read: list[str] = []
    there = files.read

    def reading(path: str) -> bytes:
        read.append(path)
        return there(path)

    monkeypatch.setattr(files, "read", reading)
    for number in range(10):
        records.add(f"made-{number}", state="created", run=False)
    assert len(ps.list_containers(ended_too=True)) == 10
    assert len(read) == 10  # its facts; it has neither a run record nor exit.json
    for number in range(10):
        records.add(f"ended-{number}")
    del read[:]
    assert len(ps.list_containers(ended_too=True)) == 20
    assert len(read) == 10 + 30  # exit.json for its state and for its row
