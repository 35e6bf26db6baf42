"""What every OCI runtime does with namespaces: first proven on crun and runc."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, every_runtime

pytestmark = [every_runtime, pytest.mark.needs("compiler", "user namespaces", "subordinate ids")]


def test_first(runtime: str, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, runtime)
    assert bundle.facts("id")["uid"] == "0 0 0 0"
