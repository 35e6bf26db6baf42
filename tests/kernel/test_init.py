"""helpers/init.c: process 1 of a container started with --init."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.compiled import sanitized_program, static_program

pytestmark = pytest.mark.needs("compiler")


BUILD = {"init": static_program}


@pytest.fixture(autouse=True, params=[static_program, sanitized_program], ids=["", "sanitized"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILD, "init", request.param)


def init() -> str:
    return str(BUILD["init"]("helpers/init.c"))


def probe() -> str:
    return str(static_program("tests/lib/probe.c"))


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [init(), *words],
        capture_output=True,
        text=True,
        timeout=30,
        **more,  # type: ignore[call-overload,no-any-return]
    )


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_code_of_the_program_is_passed_on(code: int) -> None:
    assert run("--", probe(), "exit", str(code)).returncode == code
    assert run(probe(), "exit", str(code)).returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_death_by_signal_exits_128_plus_its_number(number: int) -> None:
    assert run("--", probe(), "kill-self", str(int(number))).returncode == 128 + number


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("/no/such/program", 127, "No such file or directory"),
        ("no-such-program-on-path", 127, "No such file or directory"),
        ("/etc/hostname/x", 127, "Not a directory"),
        ("/etc", 126, "Permission denied"),
        ("/etc/passwd", 126, "Permission denied"),
    ],
)
def test_program_that_cannot_be_executed_is_reported(program: str, code: int, says: str) -> None:
    done = run("--", program, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == code
    assert done.stderr == f"rless-init: cannot run {program}: {says}\n"
    assert done.stdout == ""


def test_missing_program_is_a_usage_error() -> None:
    for words in ((), ("--",)):
        done = run(*words)
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1


def test_arguments_and_environment_are_passed_on() -> None:
    done = run("--", probe(), "args", "a b", "--", "", ",", "env", env={"X": "y z"})
    assert done.stdout == "arg 0 a b\narg 1 --\narg 2 \nX=y z\n"


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start probe below init and wait until it says that it is ready."""
    command = [init(), "--", probe(), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_every_signal_reaches_the_program() -> None:
    wanted = [1, 2, 3, 10, 13, 14, 15, 18, 20, 23, 28, 34, 64, int(signal.SIGUSR2)]
    with started("wait-signal", str(int(signal.SIGUSR2))) as process:
        assert process.stdout is not None
        for number in wanted:
            process.send_signal(number)
            assert process.stdout.readline() == f"signal {number}\n"
        assert process.wait(10) == 0


def test_handler_of_the_program_decides() -> None:
    with started("trap-term", "42") as process:
        process.terminate()
        assert process.wait(10) == 42
    with started("ignore-term") as process:
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT


def test_program_starts_with_the_callers_signal_mask() -> None:
    """Nothing that init blocks or ignores for itself is inherited."""
    expected = subprocess.run([probe(), "signals"], capture_output=True, text=True, check=True)
    assert run("--", probe(), "signals").stdout == expected.stdout


@pytest.mark.needs("user namespaces")
@pytest.mark.needs("unshare")
def test_orphans_are_reaped() -> None:
    """As process 1 of a namespace; without init the same orphans stay zombies."""
    alone = ["unshare", "--user", "--pid", "--fork"]
    bare = subprocess.run(
        [*alone, probe(), "spawn-zombies", "3"], capture_output=True, text=True, check=True
    )
    assert bare.stdout == "zombies 3\n"
    with_init = subprocess.run(
        [*alone, init(), "--", probe(), "spawn-zombies", "3", ",", "session"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert with_init.stdout.startswith("zombies 0\npid 2\nppid 1\n")


def test_orphans_are_reaped_without_a_pid_namespace() -> None:
    assert run("--", probe(), "spawn-zombies", "3").stdout == "zombies 0\n"


def test_inherited_ignored_sigchld_does_not_lose_the_exit_code() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert run("--", probe(), "exit", "7", preexec_fn=ignore).returncode == 7


def on_terminal(*words: str) -> tuple[int, int]:
    """Start init as the leader of a terminal's session; return its pid and the terminal."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.execv(init(), ["init", "--", probe(), *words])
        finally:
            os._exit(99)
    return pid, master


def read_until(master: int, text: str) -> str:
    got, deadline = "", time.monotonic() + 10
    while text not in got and time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            got += os.read(master, 4096).decode()
    assert text in got
    return got


def test_program_has_the_terminal() -> None:
    pid, master = on_terminal("tty", ",", "trap-term", "1")
    said = read_until(master, "ready")
    foreground, own = next(
        line.split()[1:] for line in said.splitlines() if line.startswith("foreground")
    )
    assert foreground == own != str(pid)
    os.write(master, b"\x03")  # the terminal's interrupt goes to the program, not to init
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGINT
    os.close(master)


def test_lost_terminal_ends_the_program() -> None:
    pid, master = on_terminal("ignore-term")
    read_until(master, "ready")
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP


@pytest.mark.needs("user namespaces")
@pytest.mark.needs("unshare")
def test_init_needs_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a root with two programs and nothing else: no /proc, no libc, no /dev."""
    monkeypatch.setitem(BUILD, "init", static_program)
    for source in (init(), probe()):
        shutil.copy(source, tmp_path)
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", f"--root={tmp_path}"]
    words = [f"/{Path(init()).name}", "--", f"/{Path(probe()).name}", "session", ",", "exit", "9"]
    done = subprocess.run(
        [*alone, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "pid 2\nppid 1\npgid 2\nsid 0\n"
    assert done.returncode == 9
