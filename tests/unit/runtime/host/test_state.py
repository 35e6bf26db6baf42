"""rootless/runtime/host/state.py: ids, and what a directory says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless import paths
from rootless.errors import RlessError
from rootless.linux.procfs import start_time
from rootless.runtime.host.state import Record, check_id


@pytest.mark.parametrize("name", ["a", "A-b_c.d+e", "0" * 1024])
def test_valid_ids_are_accepted(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "a\0", "é", "a" * 1025, "\n"])
def test_wrong_ids_are_refused(name: str) -> None:
    with pytest.raises(RlessError, match="invalid container ID"):
        check_id(name)


def facts() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "start": start_time(os.getpid()),
        "boot": paths.boot_id(),
        "bundle": "/b",
        "annotations": {},
    }


def test_states_follow_in_order(tmp_path: Path) -> None:
    record = Record(str(tmp_path), "c")
    with pytest.raises(RlessError, match="does not exist"):
        record.state()
    record.make()
    assert record.state()["status"] == "creating"
    record.write(facts())
    assert record.state()["status"] == "creating"
    record.mark_created()
    assert record.state()["status"] == "created"
    reader = os.open(record.created, os.O_RDONLY | os.O_NONBLOCK)
    record.write_start_fifo()
    assert os.read(reader, 9) == b"s"
    os.close(reader)
    assert record.state()["status"] == "running"
    assert record.state()["pid"] == os.getpid()
    record.write({**facts(), "start": 1})
    assert record.state()["status"] == "stopped"
    assert record.state()["pid"] == 0
    record.remove()
    assert os.listdir(tmp_path) == []
    record.remove()


def test_start_without_a_waiting_init_is_an_error(tmp_path: Path) -> None:
    record = Record(str(tmp_path), "c")
    record.make()
    record.write(facts())
    record.mark_created()
    with pytest.raises(RlessError, match="init has ended"):
        record.write_start_fifo()
    os.unlink(record.created)
    (tmp_path / "c/created").write_text("no fifo")
    with pytest.raises(RlessError, match="is not a FIFO"):
        record.write_start_fifo()
    (tmp_path / "c/created").unlink()
    os.mkfifo(tmp_path / "other")
    (tmp_path / "c/created").symlink_to(tmp_path / "other")
    with pytest.raises(RlessError, match="init has ended"):
        record.write_start_fifo()
