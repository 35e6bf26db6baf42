"""rless-pasta, which waits for the namespaces of a pasta and then becomes it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.linux import process
from tests.lib.compiled import sanitized_program

_SAYS = (
    "import os, sys; print(sys.argv[1:], os.readlink('/proc/self/fd/0'), os.getcwd(),"
    " os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:4])"
)


@pytest.fixture(params=["program", "sanitized"])
def program(request: pytest.FixtureRequest) -> str:
    if request.param == "sanitized":
        return str(sanitized_program("helpers/pasta.c"))
    return process.own_program("rless-pasta")


def begin(
    program: str, pasta: str, *pieces: bytes, parent: int | None = None, fd: int = 0
) -> tuple[int, str, str]:
    """Run it, and tell it the namespaces in pieces; return its exit code and what it writes."""
    words = [program, str(os.getpid() if parent is None else parent), pasta, "-4"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=-1, stderr=-1, text=True, pass_fds=[fd]
    ) as child:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it may end before it reads
            for piece in pieces:
                os.write(child.stdin.fileno(), piece)
        out, error = child.communicate()
    return child.returncode, out, error


@pytest.fixture
def says(tmp_path: Path) -> str:
    """Return a program that says with what it was executed."""
    path = tmp_path / "pasta"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{_SAYS}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("parent", [None, 0])
def test_pasta_gets_its_namespaces(program: str, says: str, parent: int | None) -> None:
    reader, writer = os.pipe()
    done = begin(program, says, b"/a net", b"\n/user\n", parent=parent, fd=writer)
    os.close(reader)
    os.close(writer)
    words = ["--netns", "/a net", "--userns", "/user", "-4"]
    assert done == (0, f"{words} /dev/null / True [0, 1, 2, 3]\n", "")


@pytest.mark.parametrize(
    "pieces",
    [[], [b"/net\n"], [b"/net\n/user"], [b"x" * 8192]],
    ids=["none", "one", "half", "long"],
)
def test_it_ends_without_namespaces(program: str, says: str, pieces: list[bytes]) -> None:
    assert begin(program, says, *pieces) == (127, "", "")


def test_it_ends_without_its_parent(program: str, says: str) -> None:
    assert begin(program, says, b"/net\n/user\n", parent=1) == (127, "", "")


def test_it_says_why_there_is_no_pasta(program: str, tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    done = begin(program, path, b"/net\n/user\n")
    assert done == (127, "", f"{path}: No such file or directory\n")


def test_a_confined_pasta_inherits_its_namespaces(program: str) -> None:
    """That of Debian 12 may open none of another process, where AppArmor is on."""
    profiles = [path.name for path in Path("/etc/apparmor.d").glob("usr.bin.pas*")]
    net, user = "/proc/self/ns/net", "/proc/self/ns/user"
    code, said, error = begin(program, "/bin/echo", f"{net}\n{user}\n".encode())
    if profiles == ["usr.bin.passt"]:
        net, user = "/proc/self/fd/3", "/proc/self/fd/4"
    assert (code, said, error) == (0, f"--netns {net} --userns {user} -4\n", "")


def test_pasta_says_what_is_no_namespace(program: str) -> None:
    done = begin(program, "/bin/echo", b"/none\n/nor this\n")
    assert done == (0, "--netns /none --userns /nor this -4\n", "")
