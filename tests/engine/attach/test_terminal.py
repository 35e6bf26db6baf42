"""`-t`: the container has its own pty, and the caller's terminal is restored."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


class Session:
    """A user at a terminal, who typed a command of rless."""

    def __init__(self, rless: Product, *words: str, stdin: bool = True) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        slave = self.slave

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            rless.argv(*words),
            stdin=slave if stdin else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env=rless.environment(),
            preexec_fn=take_terminal,  # noqa: PLW1509
        )
        rless._known.append(self.process)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Press keys."""
        os.write(self.master, data)

    def expect(self, wanted: bytes, seconds: float = 10) -> bytes:
        """Read until the screen shows `wanted`; return what came before."""
        deadline = time.monotonic() + seconds
        while wanted not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, (wanted, self.seen)
            if select.select([self.master], (), (), left)[0]:
                self.seen += os.read(self.master, 65536)
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def wait(self, seconds: float = 10) -> int:
        """Return the exit code, reading the screen meanwhile."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], (), (), 0.02)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select([self.master], (), (), 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def attributes(self) -> list[Any]:
        """Return the modes of the terminal now."""
        return termios.tcgetattr(self.slave)

    def is_raw(self) -> bool:
        """Tell whether keys go through without a look at them."""
        return not self.attributes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@pytest.fixture
def session(rless: Product) -> Iterator[Any]:
    """Give a function that starts a Session in a container."""
    made: list[Session] = []

    def start(*command: str, flags: tuple[str, ...] = ("-it",), **more: Any) -> Session:
        words = ("run", "--rm", "--network=none", *flags, rless.image, *command)
        made.append(Session(rless, *words, **more))
        return made[-1]

    yield start
    for one in made:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def test_container_has_a_terminal_of_its_own(session: Any) -> None:
    shell = session(
        "sh", "-c", "tty; stty size; echo $TERM; ls -l /dev/console; ls -1 /dev/pts; id -u"
    )
    assert shell.wait() == 0
    lines = shell.seen.decode().splitlines()
    assert lines[0] == "/dev/pts/0"
    assert lines[1] == "30 90"
    assert lines[2] == "xterm"
    assert "/dev/console" in lines[3]
    assert lines[4:6] == ["0", "ptmx"]


def test_typed_keys_reach_the_application(session: Any) -> None:
    shell = session("sh")
    shell.expect(b"# ")
    shell.type(b"echo $((40+2))\r")
    shell.expect(b"42")
    # Control-C interrupts the foreground job in there, not us.
    shell.type(b"sleep 50\r")
    time.sleep(0.2)
    shell.type(b"\x03")
    shell.expect(b"# ")
    shell.type(b"echo st$((1))ll here\r")
    shell.expect(b"st1ll here")
    shell.type(b"exit 7\r")
    assert shell.wait() == 7
    assert shell.attributes() == shell.before


def test_terminal_is_raw_during_the_run_and_restored_after(session: Any) -> None:
    shell = session("cat")
    wait_for(shell.is_raw, "raw mode")
    shell.type(b"\x04")
    assert shell.wait() == 0
    assert shell.attributes() == shell.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_terminal_is_restored_after_a_signal(session: Any, number: int) -> None:
    shell = session("probe", "trap-term", "5")
    if number != signal.SIGTERM:
        shell = session(
            "sh", "-c", f"trap 'exit 5' {int(number)}; echo ready; while :; do sleep 0.05; done"
        )
    shell.expect(b"ready")
    wait_for(shell.is_raw, "raw mode")
    shell.process.send_signal(number)
    assert shell.wait() == 5
    assert shell.attributes() == shell.before


def test_terminal_is_restored_when_the_container_is_killed(rless: Product, session: Any) -> None:
    shell = session("sleep", "60")
    wait_for(shell.is_raw, "raw mode")
    rless("kill", rless.containers()[0]).expect()
    assert shell.wait() == 137
    assert shell.attributes() == shell.before


def test_terminal_is_restored_when_the_monitor_is_killed(rless: Product, session: Any) -> None:
    shell = session("sleep", "60")
    wait_for(shell.is_raw, "raw mode")
    os.kill(children(shell.process.pid)[0], signal.SIGKILL)
    assert shell.wait() == 137
    assert shell.attributes() == shell.before
    assert b"killed" in shell.seen
    assert not rless.containers()  # the command has cleaned up in its place


@pytest.mark.parametrize("command", [("sh",), ("cat",), ("sh", "-c", "sleep 60 & cat; sleep 60")])
def test_closed_terminal_ends_the_container(
    rless: Product, session: Any, command: tuple[str, ...]
) -> None:
    """A window is closed, a connection breaks: no shell stays that nobody can reach."""
    shell = session(*command)
    wait_for(shell.is_raw, "raw mode")
    os.close(shell.master)
    os.close(shell.slave)
    shell.master, shell.slave = pty.openpty()  # for the fixture to close
    if len(command) == 1:
        shell.process.wait(timeout=10)
        wait_for(lambda: not rless.containers(), "the removal")
    else:  # it does not care; it goes on, as under nohup
        assert rless.containers()
        rless("rm", "-f", rless.containers()[0]).expect()
        shell.process.wait(timeout=10)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return [int(word) for word in stream.read().split()]


def test_terminal_is_restored_when_the_command_is_not_found(session: Any) -> None:
    shell = session("no-such-command")
    assert shell.wait() == 127
    assert shell.attributes() == shell.before


def test_window_size_changes_are_passed_on(session: Any) -> None:
    shell = session("sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    shell.expect(b"ready")
    wait_for(shell.is_raw, "raw mode")
    shell.resize(11, 22)
    shell.process.send_signal(signal.SIGWINCH)
    shell.expect(b"11 22")
    shell.process.send_signal(signal.SIGKILL)


def test_terminal_output_is_unchanged(session: Any) -> None:
    shell = session("sh", "-c", "stty raw -echo; echo ready; probe emit 300000; echo; echo THE-END")
    shell.expect(b"ready\n")
    data = shell.expect(b"\nTHE-END")
    assert len(data) == 300_000
    assert shell.wait() == 0


def test_tty_works_without_interactive_and_without_a_terminal(rless: Product, session: Any) -> None:
    done = rless.run("-t", "sh", "-c", "tty; echo err >&2").expect()
    assert done.raw == b"/dev/pts/0\r\nerr\r\n"
    error = rless.run("-it", "true").expect(125).one_line_error()
    assert "terminal" in error
    shell = session("sh", "-c", "echo hello; cat", flags=("-t",))
    shell.expect(b"hello")
    shell.process.terminate()
    rless("kill", rless.containers()[0]).expect()
    assert shell.wait() == 137


def test_non_root_user_can_open_its_terminal(rless: Product) -> None:
    for flags in (["--user", "1000"], ["--user", "1000", "--userns=host-root"]):
        done = rless.run(["-t", *flags], "sh", "-c", "echo x >/dev/tty && stat -c %u $(tty)")
        assert done.expect().raw == b"x\r\n1000\r\n", flags


def test_container_cannot_type_into_the_callers_terminal(session: Any) -> None:
    """Class 37: the terminal in there is not ours, and TIOCSTI is refused even on that one."""
    shell = session("probe", "try-tiocsti", ",", "try-tiocsti-high")
    assert shell.wait() == 0, shell.seen
    assert shell.seen.split() == [b"try-tiocsti", b"EIO", b"try-tiocsti-high", b"EIO"]


def test_detached_container_can_have_a_terminal(rless: Product) -> None:
    rless.detach("tty", "-t", "sh", "-c", "tty; stty size")
    rless("wait", "tty").expect()
    assert rless("logs", "tty").expect().raw.startswith(b"/dev/pts/0\r\n")
    rless("rm", "tty").expect()
