"""Programs in C for tests: those that run in containers, and the helpers with sanitizers.

Each is compiled once for each version of its source.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import runpy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = runpy.run_path(str(ROOT / "helpers" / "programs.py"))
# Dynamic, as the runtime of the sanitizers has to be.
SANITIZED = (
    "-std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-omit-frame-pointer"
    " -fsanitize=address,undefined -fno-sanitize-recover=all"
).split()


@functools.cache
def static_program(source: str, includes: tuple[str, ...] = ()) -> Path:
    """Return the static program made from a C file, or a directory of them; readable by all.

    Args:
        includes: other files that the C file includes.
    """

    def build(path: Path, target: Path) -> str | None:
        reason: str | None = PROGRAMS["compile_helper"](path, target, ["-Werror"])
        return reason

    return _compiled(source, "static", build, includes)


@functools.cache
def sanitized_program(source: str) -> Path:
    """Return such a program that aborts at a wrong access or undefined behaviour."""
    return _compiled(source, "sanitized", compile_sanitized)


def compile_sanitized(source: Path, target: Path, flags: Sequence[str] = ()) -> str | None:
    """Compile such a program; return None, or why there is none."""
    files = [*PROGRAMS["sources"](source), ROOT / "tests" / "lib" / "sanitizers.c"]
    command = [*os.environ.get("CC", "cc").split(), *SANITIZED, *flags]
    reason: str | None = PROGRAMS["run_compiler"](command, files, target)
    return reason


def _compiled(
    source: str,
    kind: str,
    build: Callable[[Path, Path], str | None],
    includes: Sequence[str] = (),
) -> Path:
    path = ROOT / source
    files = sorted(path.glob("*.[ch]")) if path.is_dir() else [path]
    files += [ROOT / name for name in ("helpers/programs.py", "tests/lib/sanitizers.c", *includes)]
    if path.is_dir():  # what the programs of several files share
        files += sorted((ROOT / "helpers" / "common").glob("*.[ch]"))
    text = kind.encode() + b"".join(file.read_bytes() for file in files)
    name = f"{path.stem}-{kind}-{hashlib.sha256(text).hexdigest()[:16]}"
    directory = ROOT / ".venv" / "test-programs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    if not os.access(directory, os.W_OK):
        directory = Path(tempfile.mkdtemp(prefix="rless-test-programs-"))
        directory.chmod(0o755)
    target = directory / name
    with target.with_suffix(".lock").open("w") as lock:  # some take 25 s: not each worker its own
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            reason = build(path, target)
            assert reason is None, reason
    return target
