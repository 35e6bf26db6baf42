"""rootless/runtime/inside/process.py: the parts that need no container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.linux import process as kernel
from rootless.runtime.inside import process
from tests.lib.compiled import ROOT


def test_last_duplicate_variable_wins() -> None:
    entries = ["A=1", "B=", "A=2=3"]
    assert process.parse_environment(entries) == {"A": "2=3", "B": ""}


def test_unknown_limits_are_refused() -> None:
    with pytest.raises(RlessError, match="unknown limit RLIMIT_X"):
        process.check_rlimits([{"type": "RLIMIT_X", "soft": 0, "hard": 0}])


# A directory above the root: what a surviving descriptor of the host would give.
_OUTSIDE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rootless.errors import RlessError
from rootless.linux import ns, process as kernel
from rootless.runtime.inside import process
ns.unshare(ns.CLONE_NEWUSER | ns.CLONE_NEWNS)
kept = os.open("/", os.O_PATH)
os.chroot(sys.argv[2])
os.fchdir(kept)
print(kernel.getcwd().decode())
try:
    process.enter_directory(".")
except RlessError as error:
    print(error)
"""


@pytest.mark.needs("user namespaces")
def test_directory_outside_the_root_is_refused(tmp_path: Path) -> None:
    """CVE-2024-21626: libc's getcwd() would not tell."""
    done = subprocess.run(
        [sys.executable, "-c", _OUTSIDE, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(unreachable)/\nthe working directory is outside of the container\n"


def test_getcwd_returns_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kernel.getcwd() == os.fsencode(os.getcwd())


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#! /bin/sh -x\n", "/bin/sh"),
        (b"#!\t/bin/sh", "/bin/sh"),
        (b"#!relative\n", "relative"),
        (b"#!\n/x", ""),
        (b"#!   \n", ""),
        (b"", ""),
        (b"#", ""),
        (b"\x7fELF#!/x", ""),
        (b"#!/\xff\n", "/\udcff"),
    ],
)
def test_interpreter_of_a_script_is_parsed(tmp_path: Path, head: bytes, interpreter: str) -> None:
    script = tmp_path / "script"
    script.write_bytes(head)
    assert process._interpreter(str(script)) == interpreter


def test_other_files_are_not_scripts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        assert process._interpreter(str(path)) == ""
