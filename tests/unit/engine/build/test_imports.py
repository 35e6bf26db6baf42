"""What a build loads before its first step: a cached build is little more than that."""

from __future__ import annotations

import subprocess
import sys

SLOW = {"concurrent.futures", "dataclasses", "http.client", "inspect", "logging", "shutil", "ssl"}


def test_build_loads_nothing_that_takes_long() -> None:
    code = (
        "import sys; from rootless.engine.build import build, step_process, outputs;"
        "print(*sys.modules, sep='\\n')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not SLOW & ({*ran.stdout.split()} - {*bare.stdout.split()})
