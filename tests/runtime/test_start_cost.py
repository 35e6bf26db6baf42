"""The modules that a call of rless-oci loads: each costs file operations over NFS."""

from __future__ import annotations

import subprocess

import pytest

from tests.lib.bundle import ENVIRONMENT, Bundle

# Each costs milliseconds, and none is needed to start a container.
HEAVY = {
    "argparse", "asyncio", "click", "collections", "contextlib", "dataclasses", "enum",
    "functools", "json", "logging", "pathlib", "re", "shutil", "signal", "socket", "subprocess",
    "tempfile", "threading", "typing", "pyroute2",
}  # fmt: skip


@pytest.mark.needs("compiler", "user namespaces")
@pytest.mark.parametrize("verb", ["state", "run"])
def test_runtime_loads_few_modules(bundle: Bundle, verb: str) -> None:
    bundle.write("id")
    arguments = [] if verb == "state" else ["-b", str(bundle.path)]
    command = bundle.command(verb, *arguments, bundle.id)
    command[1:1] = ["-X", "importtime"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rsplit("|", 1)[1].strip() for line in lines}
    assert "rootless.runtime.commands.main" in loaded
    assert not loaded & HEAVY
    assert len(loaded) < (84 if verb == "run" else 50), sorted(loaded)
