"""Tests of the records of processes that are run in a container beside its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from rootless.engine.exec import records
from rootless.engine.state.container import Container, this_process

if TYPE_CHECKING:
    from pathlib import Path

    from rootless.engine.state.records import ContainerRecord

EXEC = "e" * 64


def test_code_written_after_the_record_was_read_is_not_lost(tmp_path: Path) -> None:
    """The keeper writes the code and ends, while another looks at what it has read before."""
    container = Container("c" * 64, os.fspath(tmp_path), cast("ContainerRecord", {}))
    (tmp_path / "execs").mkdir()
    record: dict[str, Any] = {"id": EXEC, "keeper": this_process()}
    assert records.state_of(container, record) == (True, None)
    record["keeper"] = [os.getpid(), 1]  # of another time: it has ended
    assert records.state_of(container, record) == (False, 137)
    records.note_end(container, EXEC, 7)
    assert records.state_of(container, record) == (False, 7)
