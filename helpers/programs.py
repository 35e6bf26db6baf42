"""Compile the programs of helpers/, and make the launchers; for setup.py, and for their tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-s"]
STATIC = ["-static"]
# Without the C library, on the processors that a bare.c knows: a twentieth of the size.
BARE = (
    "-DBARE -nostdlib -no-pie -fno-builtin -fno-tree-loop-distribute-patterns"
    " -fno-stack-protector -U_FORTIFY_SOURCE"
).split()


def find_compiler() -> list[str] | None:
    """Return the command of the C compiler: $CC, or the first of cc, gcc and clang."""
    chosen = os.environ.get("CC", "").split()
    if chosen:
        return chosen if shutil.which(chosen[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def sources(path: Path) -> list[Path]:
    """Return the C files of a program: one, or those of a directory."""
    files = sorted(path.glob("*.c")) if path.is_dir() else [path]
    if path.name == "launch.c":
        files.append(HELPERS / "foreground" / "foreground.c")
    if path.name in ("launch.c", "hasten.c", "fuse_server", "monitor", "userns_holder"):
        files.append(HELPERS / "common" / "bare.c")
    return files


def compile_helper(source: Path, target: Path, flags: Sequence[str] = ()) -> str | None:
    """Compile a static program; return None, or why there is none."""
    files = sources(source)
    has_bare = any(file.name == "bare.c" for file in files)
    if has_bare and compile_with([*CFLAGS, *STATIC, *BARE, *flags], files, target) is None:
        return None
    return compile_with([*CFLAGS, *STATIC, *flags], files, target)


def compile_with(flags: list[str], files: list[Path], target: Path) -> str | None:
    """Compile with these flags; return as `compile_helper`."""
    missing = [file for file in files if not file.exists()]
    if missing or not files:
        return f"{missing or 'the source'} is missing"
    compiler = find_compiler()
    if compiler is None:
        return "no C compiler was found ($CC, cc, gcc, clang)"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler, *flags, "-o", str(fresh), *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            problems = [line for line in lines if "error" in line or "cannot find" in line]
            return f"{compiler[0]}: {(problems or lines or ['it failed'])[0].strip()}"
        fresh.chmod(0o755)
        fresh.replace(target)  # a running container may still execute the old one
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        fresh.unlink(missing_ok=True)
    return None


def write_launcher(path: Path, values: dict[str, str]) -> None:
    """Make one launcher: NAME, MODULE, SOURCE (of an editable install), PYTHON, VERSION."""
    program, script = (HELPERS / name for name in ("launcher/launch.c", "launcher/launch.sh"))
    macros = [f"-D{key}={c_string(value)}" for key, value in values.items()]
    if compile_helper(program, path, macros) is None:
        return
    text = script.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value.replace("'", "'\\''"))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def c_string(value: str) -> str:
    """Return a C string literal."""
    octal = "".join(f"\\{byte:03o}" for byte in os.fsencode(value))
    return f'"{octal}"'
