"""The helper programs: how they are linked and hardened, and the choice of a compiler."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lib.compiled import PROGRAMS, ROOT

pytestmark = pytest.mark.needs("compiler", "readelf")
HELPERS = ROOT / "helpers"
SOURCES = [
    *("init.c", "monitor", "networks", "fuse_server", "userns_holder", "listener", "pasta.c"),
]
LAUNCHER = "launcher/launch.c"


def compile_program(source: str, target: Path, *, symbols: bool = False) -> Path:
    link = [flag for flag in PROGRAMS["LINK"] if flag != "-s" or not symbols]
    names = ("NAME", "MODULE", "SOURCE", "PYTHON", "VERSION") if source == LAUNCHER else ()
    macros = PROGRAMS["launcher_macros"](dict.fromkeys(names, "value")) if names else []
    command = [*PROGRAMS["find_compiler"](), *PROGRAMS["CFLAGS"], *link, "-Werror", *macros]
    files = PROGRAMS["sources"](HELPERS / source)
    assert PROGRAMS["run_compiler"](command, files, target) is None
    return target


def readelf(option: str, program: Path) -> str:
    done = subprocess.run(
        ["readelf", "-W", option, program], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("source", [*SOURCES, LAUNCHER])
def test_programs_are_static_and_hardened(tmp_path: Path, source: str) -> None:
    program = compile_program(source, tmp_path / "program", symbols=True)
    assert "DYN (Position-Independent Executable file)" in readelf("-h", program)
    segments = readelf("-l", program)
    assert "INTERP" not in segments
    assert "GNU_RELRO" in segments
    (stack,) = (line for line in segments.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack
    dynamic = readelf("-d", program)
    assert "NEEDED" not in dynamic
    assert "TEXTREL" not in dynamic
    assert "BIND_NOW" in dynamic
    assert "__stack_chk_fail" in readelf("-s", program)


OVERFLOW = """
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char words[64] = "longer than what it is written to";

int main(int argc, char **argv)
{
	char buffer[16], *heap = malloc(16);
	struct pollfd fds[2] = { { -1, 0, 0 }, { -1, 0, 0 } };
	size_t size = (size_t)atoi(argv[2]);
	int pair[2];

	if (argc != 3 || pipe(pair) || write(pair[1], words, sizeof(words)) < 0)
		return 1;
	switch (*argv[1]) {
	case 'c': memcpy(buffer, words, size); break;
	case 'h': memcpy(heap, words, size); break;
	case 'm': memmove(buffer, words, size); break;
	case 's': memset(buffer, 1, size); break;
	case 'f': snprintf(buffer, size, "%s", "short"); break;
	case 'r': if (read(pair[0], buffer, size) < 0) return 2; break;
	case 'p': if (pread(0, buffer, size, 0) < 0) return 3; break;
	case 'v': recv(0, buffer, size, 0); break;
	case 'l': if (readlinkat(-100, "/proc/self/cwd", buffer, size) < 0) return 4; break;
	case 'o': return poll(fds, size / 8, 0);
	}
	printf("%c%c", buffer[0], heap[0]); /* so that they are written at all */
	return 0;
}
"""


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param("cc", marks=pytest.mark.needs("glibc")),
        pytest.param("musl-gcc", marks=pytest.mark.needs("musl-gcc")),
    ],
)
def test_writing_beyond_a_buffer_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    """By FORTIFY, which musl does not have itself (helpers/common/fortify.h)."""
    monkeypatch.setenv("CC", compiler)
    source = tmp_path / "overflow.c"
    source.write_text(OVERFLOW)
    program = tmp_path / "overflow"
    command = [*PROGRAMS["find_compiler"](), *PROGRAMS["CFLAGS"], *PROGRAMS["LINK"]]
    assert PROGRAMS["run_compiler"](command, [source], program) is None
    for function in "chmsfrpvlo":
        for size, ends in ((16, [0]), (24, [-signal.SIGILL, -signal.SIGABRT, -signal.SIGTRAP])):
            with open("/dev/zero") as zeros:
                code = subprocess.run(
                    [program, function, str(size)], stdin=zeros, capture_output=True, check=False
                ).returncode
            assert code in ends, (function, size, code)


@pytest.mark.needs("musl-gcc")
def test_musl_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    assert PROGRAMS["find_compiler"]()[0] == "musl-gcc"


def test_chosen_compiler_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert PROGRAMS["find_compiler"]() is None


def test_missing_compiler_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    reason: Any = PROGRAMS["compile_helper"](HELPERS / "init.c", tmp_path / "init")
    assert "musl-tools" in reason
    assert "ziglang" in reason
    assert "\n" not in reason
    assert not any(tmp_path.iterdir())


def test_compiler_without_static_linking_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("musl-gcc", "cc"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'ld: cannot find -lc' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    programs = runpy.run_path(str(HELPERS / "programs.py"))  # a new one: it remembers
    assert programs["find_compiler"]()[0] in ("gcc", "clang")


def requirement(compiler: str) -> str:
    """Return what the build backend has pip install beside setuptools, with this $CC."""
    code = "import build_backend; print(*build_backend.compiler_requirement())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(HELPERS), "CC": compiler},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_build_requires_a_compiler_only_when_missing() -> None:
    assert requirement("no-such-compiler").startswith("ziglang")
    assert requirement("cc") == ""


@pytest.mark.needs("package index")
@pytest.mark.timeout(900)
def test_ziglang_builds_without_a_compiler(tmp_path: Path) -> None:
    # It unpacks a whole compiler and compiles musl: the tests beside it go first.
    last = ["/usr/bin/nice", "-n", "19", sys.executable]
    pip = [*last, "-m", "pip", "install", "-q", "--no-compile", "--target", str(tmp_path / "lib")]
    subprocess.run([*pip, "ziglang"], check=True)
    code = (
        "import sys, pathlib, programs; source, target = map(pathlib.Path, sys.argv[1:]);"
        "print(programs.find_compiler()[2], programs.compile_helper(source, target))"
    )
    done = subprocess.run(
        [*last, "-c", code, HELPERS / "init.c", tmp_path / "init"],
        env={
            "PATH": str(tmp_path),
            "HOME": str(tmp_path),
            "PYTHONPATH": f"{HELPERS}:{tmp_path / 'lib'}",
            "RLESS_WERROR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ziglang None\n", "")
    assert "INTERP" not in readelf("-l", tmp_path / "init")
    assert subprocess.run([tmp_path / "init", "sh", "-c", "exit 7"], check=False).returncode == 7


def test_every_installed_program_is_tested() -> None:
    helpers = {path.relative_to(HELPERS).as_posix() for path in HELPERS.iterdir()}
    programs = {
        name for name in helpers
        if (HELPERS / name).suffix == ".c" or (HELPERS / name / "main.c").exists()
    }  # fmt: skip
    assert programs == set(SOURCES)
