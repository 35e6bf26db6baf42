"""Programs in C that tests run in containers, compiled once for each version of the source."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def static_program(source: str, flags: str = "", includes: tuple[str, ...] = ()) -> Path:
    """Return the static program made from a C file, or those of a directory, readable by all.

    Args:
        includes: files outside of `tests` that the C file includes.
    """
    path = ROOT / source
    files = sorted(path.glob("*.[ch]")) if path.is_dir() else [path]
    included = [ROOT / name for name in includes]
    if path.is_dir():  # what the programs of several files share
        files += (ROOT / "helpers" / "common").glob("*.[ch]")
    text = flags.encode() + b"".join(file.read_bytes() for file in [*files, *included])
    name = f"{Path(source).stem}-{hashlib.sha256(text).hexdigest()[:16]}"
    directory = ROOT / ".venv" / "test-programs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    if not os.access(directory, os.W_OK):
        directory = Path(tempfile.mkdtemp(prefix="rless-test-programs-"))
        directory.chmod(0o755)
    target = directory / name
    if not target.exists():
        fresh = directory / f".{name}.{os.getpid()}"  # tests run in several processes
        compiler = os.environ.get("CC", "cc").split()
        command = [*compiler, "-std=gnu11", "-O2", "-static", *flags.split()]
        command += ["-o", str(fresh), *(str(file) for file in files if file.suffix == ".c")]
        subprocess.run(command, check=True)
        fresh.replace(target)
    return target
