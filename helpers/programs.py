"""Compile the programs of helpers/, and make the launchers; for setup.py, and for their tests.

Each program is static and position independent, so that one file runs on any Linux of its
processor, whatever the C library there. It is linked with musl where there is one: beside an idle
container that takes a third of the memory of glibc, and a start 0.4 ms less for each program
(docs/decisions/0015-programs.md).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
CFLAGS = [
    *("-std=gnu11", "-O2", "-Wall", "-Wextra"),
    "-Wno-sign-compare",  # what CMSG_NXTHDR of musl does
    *("-fPIE", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"),
    *("-include", str(HELPERS / "common" / "fortify.h")),  # for musl, which has none
    *("-ffunction-sections", "-fdata-sections"),
]
LINK = "-s -Wl,--gc-sections -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack".split()
TIMEOUT = 600  # seconds; ziglang compiles musl when it is used first
PROBE = '#include <linux/types.h>\n#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
NO_COMPILER = (
    "no C compiler that makes static programs was found: install musl-tools (Debian, Ubuntu), or "
    "gcc with glibc-static (Fedora, SUSE), or the Python package ziglang, and install rless again"
)


def find_compiler() -> list[str] | None:
    """Return the command that makes static programs, with the flags that make them so.

    That is $CC if it is set, else the first that can of musl-gcc, cc, gcc, clang and the Python
    package ziglang.
    """
    return _find_compiler(os.environ.get("CC", ""))


@functools.cache
def _find_compiler(chosen: str) -> list[str] | None:
    for command in [chosen.split()] if chosen.strip() else _compilers():
        with tempfile.TemporaryDirectory(prefix="rless-build-") as scratch:
            source = Path(scratch, "probe.c")
            source.write_text(PROBE, encoding="ascii")
            whole = [*command, *_static(command)]
            if run_compiler([*whole, *CFLAGS, *LINK], [source], Path(scratch, "probe")) is None:
                return whole
    return None


def _compilers() -> list[list[str]]:
    found = [[name] for name in ("musl-gcc", "cc", "gcc", "clang") if shutil.which(name)]
    if importlib.util.find_spec("ziglang"):
        machine = platform.machine()
        names = {"ppc64le": "powerpc64le", "i686": "x86", "armv7l": "arm"}
        kind = "musleabihf" if machine == "armv7l" else "musl"
        target = f"{names.get(machine, machine)}-linux-{kind}"
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", target])
    return found


def _static(command: list[str]) -> list[str]:
    """Return the flags by which a compiler links a static program that is position independent."""
    if "ziglang" in command:
        return ["-static", "-pie"]
    if os.path.basename(command[0]) != "musl-gcc":
        return ["-static-pie"]
    # Its wrapper of gcc knows no -static-pie: it takes Scrt1.o, which leaves the relocations to a
    # dynamic linker. And it hides the headers of Linux with those of glibc.
    trace = subprocess.run(
        [*command, "-###", "-x", "c", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    start = re.search(r"(\S+)/Scrt1\.o", trace)
    machine = subprocess.run(
        [*command, "-dumpmachine"], capture_output=True, text=True, check=False
    ).stdout.strip()
    flags = ["-static", "-Wl,-pie", "-Wl,--no-dynamic-linker", "-Wl,-z,text", "-nostartfiles"]
    for headers in ("/usr/include", f"/usr/include/{machine}"):
        flags += ["-idirafter", headers]
    return [*flags, f"{start[1]}/rcrt1.o"] if start else ["-static-pie"]


def sources(path: Path) -> list[Path]:
    """Return the C files of a program: one, or those of a directory."""
    files = sorted(path.glob("*.c")) if path.is_dir() else [path]
    if path.name == "launch.c":
        files.append(HELPERS / "foreground" / "foreground.c")
    return files


def compile_helper(source: Path, target: Path, flags: Sequence[str] = ()) -> str | None:
    """Compile a static program; return None, or why there is none."""
    # Not for users: a compiler that is newer than this source may warn of more.
    strict = ["-Werror"] if "CI" in os.environ or "RLESS_WERROR" in os.environ else []
    compiler = find_compiler()
    if compiler is None:
        return NO_COMPILER
    return run_compiler([*compiler, *CFLAGS, *LINK, *strict, *flags], sources(source), target)


def run_compiler(command: list[str], files: list[Path], target: Path) -> str | None:
    """Compile files to a program, or leave the one that is there; return as `compile_helper`."""
    missing = [file for file in files if not file.exists()]
    if missing or not files:
        return f"{missing or 'the source'} is missing"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*command, "-o", str(fresh), *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            problems = [line for line in lines if "error" in line or "cannot find" in line]
            return f"{command[0]}: {(problems or lines or ['it failed'])[0].strip()}"
        fresh.chmod(0o755)
        fresh.replace(target)  # a running container may still execute the old one
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        fresh.unlink(missing_ok=True)
    return None


def write_launcher(
    path: Path, values: dict[str, str], compile_: Callable[..., str | None] | None = None
) -> str | None:
    """Make one launcher: NAME, MODULE, SOURCE (of an editable install), PYTHON, VERSION.

    Return as `compile_helper`, which is called if no other is given.
    """
    return (compile_ or compile_helper)(
        HELPERS / "launcher" / "launch.c", path, launcher_macros(values)
    )


def launcher_macros(values: dict[str, str]) -> list[str]:
    """Return the flags by which the compiler knows these values, and what the fronts are."""
    strings = {**values, "FRONT_MODULE": "rootless.cli.fronts.main"}
    return [*(f"-D{key}={c_string(value)}" for key, value in strings.items()), _fronts()]


def _fronts() -> str:
    """Return the fronts' versions as a macro: name, the text before the number, it, that after."""
    package = HELPERS.parent / "rootless"
    release = runpy.run_path(str(package / "__init__.py"))["__version__"]
    versions = runpy.run_path(str(package / "cli" / "fronts" / "versions.py"))
    rows = []
    for name, number in versions["NUMBERS"].items():
        before, _, after = versions["LINES"][name].partition("{}")
        texts = (name, before, number.format(release=release), after.format(release=release))
        rows.append("{" + ",".join(map(c_string, texts)) + "}")
    return f"-DFRONTS={','.join(rows)}"


def c_string(value: str) -> str:
    """Return a C string literal."""
    octal = "".join(f"\\{byte:03o}" for byte in os.fsencode(value))
    return f'"{octal}"'
