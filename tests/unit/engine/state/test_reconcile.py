"""Reconcile: what is abandoned, and what only seems so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rootless.engine.state import container as containers
from rootless.engine.state import reconcile

DEAD = [2, 1]  # no process of that number began at that time
ID = "a" * 64


def test_reconcile_sees_a_monitor_noted_between_its_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor is noted, and the owner ends, between the looks at run record and owner."""
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "storage"))
    reconcile.reconcile()
    path = f"{containers.run_records_root()}/{ID}"
    containers.write_json(path, {"owner": DEAD, "rm": False})
    looks: list[Any] = []

    def look(process: Any) -> bool:
        looks.append(process)
        if len(looks) == 1:
            entry = {"owner": DEAD, "monitor": containers.this_process(), "rm": False}
            containers.write_json(path, entry)
        return is_alive(process)

    is_alive = containers.is_alive
    monkeypatch.setattr(containers, "is_alive", look)
    reconcile.reconcile()
    assert containers.read_json(path) is not None
    # As an older version wrote it, with null for what is not known.
    nothing = dict.fromkeys(("monitor", "init", "pasta"))
    containers.write_json(path, {"owner": DEAD, "rm": False, **nothing})
    reconcile.reconcile()
    assert containers.read_json(path) is None
