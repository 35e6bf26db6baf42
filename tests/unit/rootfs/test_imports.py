"""The modules that a cached run imports."""

from __future__ import annotations

import subprocess
import sys

_ALLOWED = {
    "rootless",
    "rootless.errors",
    "rootless.linux",
    "rootless.linux.call",
    "rootless.linux.ffi",
    "rootless.linux.mount",
    "rootless.rootfs",
    "rootless.rootfs.overlay",
}
_DEAR = {"typing", "subprocess", "tempfile", "dataclasses", "re", "pathlib", "logging", "shutil"}


def test_import_loads_the_overlay_driver_only() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ctypes; before = set(sys.modules);"
        "import rootless.rootfs; print(*sorted(set(sys.modules) - before))"
    )
    root = __file__.partition("/tests/")[0]
    command = [sys.executable, "-I", "-S", "-c", script, root]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & _DEAR
    assert {name for name in loaded if name.startswith("rootless")} <= _ALLOWED
