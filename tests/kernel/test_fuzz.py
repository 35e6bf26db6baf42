"""The C code that reads a stranger's bytes, fuzzed for some seconds (security class 50).

`scripts/fuzz` does it for longer.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("sanitizers")

TREE = Path(__file__).resolve().parents[2]
SECONDS = "3"


def fuzz(tree: Path, target: str) -> subprocess.CompletedProcess[str]:
    command = [tree / "scripts/fuzz", SECONDS, target]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def copy_with(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """Return a copy of what is fuzzed, with a change in one file."""
    for name in ("helpers", "scripts"):
        shutil.copytree(TREE / name, tmp_path / name)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("target", ["dns", "members", "monitor", "log"])
def test_fuzzing_finds_no_fault(target: str, tmp_path: Path) -> None:
    for name in ("helpers", "scripts"):
        shutil.copytree(TREE / name, tmp_path / name)
    done = fuzz(tmp_path, target)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "file", "old", "new"),
    [
        ("dns", "networks/dns.c", "at + 5 <= size ? at + 1 : 0", "at + 1"),
        ("members", "networks/members.c", "bits > 8 * network->gateways[family].size", "false"),
        ("members", "networks/members.c", " && *client->id) {", ") {"),
        ("monitor", "monitor/clients.c", "error && i < count", "error && i + 1 < count"),
        ("log", "monitor/log_json.c", "if (first == 0xed) high = 0x9f;", ""),
    ],
)
def test_fuzzing_finds_planted_faults(
    target: str, file: str, old: str, new: str, tmp_path: Path
) -> None:
    done = fuzz(copy_with(tmp_path, f"helpers/{file}", old, new), target)
    assert done.returncode != 0, done.stdout + done.stderr
    assert "found: " in done.stderr or "ERROR: AddressSanitizer" in done.stderr, done.stderr
    assert (tmp_path / f"fuzz-{target}").exists()
