"""The foreground process of `rless run`: what it passes on, and what it leaves to Python.

The launcher is the real one. Python is a play: scripts in place of the start process, of the
monitor and of rootless.cli.foreground.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.compiled import PROGRAMS, compile_sanitized

pytestmark = pytest.mark.needs("compiler")

STDIN, STDOUT, STDERR, DETACH, FORWARD, PYTHON = 1, 2, 4, 8, 16, 32
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
SECONDS = 20  # far more than anything takes

# The package: who is started plays what the test has written for the part.
LAUNCH = '''
import _signal as signal, _socket as socket, os, select, sys, time
foreground_fd = -1

def say(what):
    """Tell the test, by the pipe that it has left open."""
    os.write(int(os.environ["NEWS"]), f"{what}\\n".encode())

# By short waits: a signal may come just before a long one, which it then would not end.
def heard():
    """Wait until the test has a part go on."""
    while not select.select([int(os.environ["CUES"])], (), (), 0.01)[0]:
        pass
    os.read(int(os.environ["CUES"]), 1)

def idle():
    """Wait for a signal."""
    for _ in range(6000):
        time.sleep(0.01)

def attend(flags, text=b"", facts=b"{}"):
    """Say 'A', keep our ends: link, stdin, stdout, stderr; -1: without."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    ours, theirs = [pairs[0][0]], [pairs[0][1].fileno()]
    for bit in (1, 2, 4):
        if flags & bit:
            ends = os.pipe()
            ours.append(ends[bit > 1])
            theirs.append(ends[bit == 1])
        else:
            ours.append(-1)
    asking = socket.socket(fileno=foreground_fd)
    rights = b"".join(fd.to_bytes(4, "little") for fd in theirs)
    asking.sendmsg([b"A" + bytes([flags]) + text + b"\\0" + facts],
                   [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    pairs[0][1].close()
    for fd in theirs[1:]:
        os.close(fd)
    assert asking.recv(10) == b"a"
    asking.close()
    return ours

def write(fd, data):
    while data:
        data = data[os.write(fd, data):]

def ended(link, code, *fds):
    """Be the monitor at the end."""
    for fd in fds:
        os.close(fd)
    link.send(b"X" + code.to_bytes(4, "little"))
    os._exit(0)

def start(module):
    part = "START" if foreground_fd >= 0 else "PLAIN"
    if module == "rootless.cli.foreground":
        part = "FOREGROUND"
    exec(os.environ[part], globals())
    os._exit(97)
'''
# What Python finds when it becomes the foreground process.
FOREGROUND = """
import json
words = sys.argv[1:]
if words[5] != "attend":
    os.kill(int(words[4]), 9)  # if it is not at its end; it is there to be waited for
    os.waitpid(int(words[4]), 0)
print(json.dumps({
    "link": int(words[0]), "streams": [int(word) for word in words[1:4]], "pid": int(words[4]),
    "state": words[5], "detail": words[6], "facts": words[7], "more": words[8:],
    "pending": sorted(map(int, signal.sigpending())),
    "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(
        f"/proc/self/fd/{fd}")),
}), flush=True)
os._exit(99)
"""
# A monitor that tells what it hears.
HEAR = """
try:
    while message := link.recv(100):
        say(list(message))
except ConnectionResetError:
    pass  # it has left something unread
say("end")
os._exit(0)
"""
# It must not end with the foreground process, as the real start process sees to by itself.
OUTLIVE = "import ctypes\nctypes.CDLL(None).prctl(1, 0)\n"


class Stage:
    """An installation of the play, and the processes that were started of it."""

    def __init__(self, launcher: Path) -> None:
        self.launcher = launcher
        self.processes: list[subprocess.Popen[bytes]] = []
        self.news, self._told = os.pipe()
        self._cued, self.cues = os.pipe()
        self._seen = b""

    def start(
        self, script: str, *words: str, foreground: str = FOREGROUND, plain: str = "", **how: Any
    ) -> subprocess.Popen[bytes]:
        """Start `rless run`, or these words, with pipes for what is not given."""
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
               "stderr": subprocess.PIPE, **how}  # fmt: skip
        environment = {
            **os.environ, "START": script, "FOREGROUND": foreground, "PLAIN": plain,
            "NEWS": str(self._told), "CUES": str(self._cued),
        }  # fmt: skip
        process = subprocess.Popen(
            [self.launcher, *(words or ("run",))],
            env=environment,
            pass_fds=(self._told, self._cued, *how.pop("pass_fds", ())),
            **how,
        )
        self.processes.append(process)
        return process

    def expect(self, line: object) -> None:
        """Wait for what a part of the play says next."""
        found = self.next()
        assert found == str(line), found

    def next(self) -> str:
        """Return what a part of the play says next."""
        while b"\n" not in self._seen:
            assert select.select([self.news], (), (), SECONDS)[0], "nothing was said"
            self._seen += os.read(self.news, 4096)
        line, _, self._seen = self._seen.partition(b"\n")
        return line.decode()

    def cue(self) -> None:
        """Have a part of the play go on."""
        os.write(self.cues, b".")

    def close(self) -> None:
        """End all that is left."""
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):  # what is left in its buffer
                    if stream is not None:
                        stream.close()
        for fd in (self.news, self._told, self._cued, self.cues):
            os.close(fd)


def build(
    tree: Path, name: str = "rless", source: Path | None = None, sanitized: bool = False
) -> Path:
    """Return a launcher, for the play in `tree` if not for another source."""
    values = {
        "NAME": name,
        "MODULE": "rootless.cli.main",
        "SOURCE": str(source or tree),
        "PYTHON": os.path.realpath(sys.executable),
        "VERSION": "{}.{}".format(*sys.version_info),
    }
    (tree / "rootless").mkdir()
    (tree / "rootless" / "__init__.py").touch()
    (tree / "rootless" / "launch.py").write_text(LAUNCH)
    compile_ = compile_sanitized if sanitized else None
    reason = PROGRAMS["write_launcher"](tree / "bin" / name, values, compile_)
    assert reason is None, reason
    return tree / "bin" / name


@pytest.fixture(scope="module", params=[False, True], ids=["", "sanitized"])
def launcher(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return build(tmp_path_factory.mktemp("tree"), sanitized=request.param)


@pytest.fixture
def stage(launcher: Path) -> Iterator[Stage]:
    found = Stage(launcher)
    yield found
    found.close()


def finish(process: subprocess.Popen[bytes], data: bytes | None = None) -> tuple[int, str, str]:
    """Return the exit code and all that was written."""
    out, err = process.communicate(data, timeout=SECONDS)
    return process.returncode, out.decode(), err.decode()


def taken_over(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what Python found when it became the foreground process."""
    code, out, err = finish(process)
    assert code == 99, (code, out, err)
    found: dict[str, Any] = json.loads(out)
    return found


def wait_until(pid: int, state: str) -> None:
    """Wait until a process is stopped (T), or has ended and was not waited for (Z)."""
    deadline = time.monotonic() + SECONDS
    stat = Path(f"/proc/{pid}/stat")
    while (found := stat.read_text().rpartition(")")[2].split()[0]) != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.002)


# -- the fork --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "forks"),
    [
        ("run", True),
        ("run --rm image ps", True),
        ("container run image", True),
        ("--debug --storage run container run x", True),
        ("--storage=a --cgroup-manager none run", True),
        ("--cgroup-manager run", False),
        ("--storage run ps", False),
        ("ps", False),
        ("ps run", False),
        ("container ps run", False),
        ("container", False),
        ("exec x run", False),
        ("run --join=a image", False),
        ("container run --join a image", False),
        ("", False),
    ],
)
def test_only_run_commands_fork(stage: Stage, line: str, forks: bool) -> None:
    tell = "say([foreground_fd >= 0, os.getppid(), *sys.argv[1:]])\nos._exit(5)"
    process = stage.start(tell, *(line.split() or ("",)), plain=tell)
    assert finish(process) == (5, "", "")
    words = line.split() or [""]
    parent = process.pid if forks else os.getpid()
    stage.expect([forks, parent, *words])


def test_oci_runtime_does_not_fork(stage: Stage, tmp_path: Path) -> None:
    stage.launcher = build(tmp_path, "rless-oci")
    assert finish(stage.start("", plain="os._exit(5)"))[0] == 5


def test_start_process_inherits_only_its_socket(stage: Stage) -> None:
    script = (
        "own = os.listdir('/proc/self/fd')\n"
        "known = {0, 1, 2, foreground_fd, int(os.environ['NEWS']), int(os.environ['CUES'])}\n"
        "say([fd for fd in map(int, own) if fd not in known and os.path.lexists("
        "    f'/proc/self/fd/{fd}')])\n"
        "say([os.getsid(0) == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())])\n"
        "os._exit(0)"
    )
    assert finish(stage.start(script))[0] == 0
    stage.expect([])
    stage.expect([True, {signal.SIGINT.value}])  # until `main` takes it


def test_missing_python_is_reported_once(stage: Stage, tmp_path: Path) -> None:
    stage.launcher = build(tmp_path, source=tmp_path / "gone")
    code, out, err = finish(stage.start(""))
    assert (code, out, err.count("\n")) == (125, "", 1)
    assert "installation of" in err


# -- before 'A' ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 125, 255])
def test_exit_code_of_the_start_process_is_passed_on(stage: Stage, code: int) -> None:
    assert finish(stage.start(f"os.write(2, b'why\\n')\nos._exit({code})")) == (code, "", "why\n")


def test_killed_start_process_exits_137(stage: Stage) -> None:
    assert finish(stage.start("os.kill(os.getpid(), 9)"))[0] == 137


def test_exit_code_is_known_although_the_caller_ignores_sigchld(stage: Stage) -> None:
    launch = [sys.executable, "-c", "import os, signal, sys\n"
              "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])",
              str(stage.launcher), "run"]  # fmt: skip
    done = subprocess.run(
        launch, env={**os.environ, "START": "time.sleep(0.05)\nos._exit(7)"}, timeout=SECONDS
    )
    assert done.returncode == 7


@pytest.mark.parametrize("number", [*ENDING, signal.SIGUSR1, signal.SIGCONT, signal.SIGRTMAX])
def test_early_signals_reach_the_start_process(stage: Stage, number: int) -> None:
    script = (
        f"signal.signal({int(number)}, lambda number, frame: os._exit(50))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, (2,))\n"
        "signal.signal(23, lambda number, frame: say(number))\n"  # SIGURG
        "signal.signal(28, lambda number, frame: say(number))\n"  # SIGWINCH
        "say('ready')\nidle()"
    )
    process = stage.start(script)
    stage.expect("ready")
    for ignored in (signal.SIGWINCH, signal.SIGURG):
        process.send_signal(ignored)
    process.send_signal(number)
    assert finish(process)[0] == 50
    assert not select.select([stage.news], (), (), 0)[0]


def test_signal_that_ends_the_start_process_ends_the_command(stage: Stage) -> None:
    process = stage.start("say('ready')\nidle()")
    stage.expect("ready")
    process.terminate()
    assert finish(process)[0] == 128 + signal.SIGTERM


STOPPABLE = "signal.signal(10, lambda number, frame: say('signal'))\nsay(os.getpid())\nheard()\n"
STOPPABLE += "say('went on')\nheard()\nos._exit(3)"


def test_sigtstp_stops_the_start_process_too(stage: Stage) -> None:
    process = stage.start(STOPPABLE, preexec_fn=os.setpgrp)  # a job of ours, as of a shell
    pid = int(stage.next())
    process.send_signal(signal.SIGTSTP)
    wait_until(process.pid, "T")
    wait_until(pid, "T")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGCONT)
    stage.expect("signal")
    stage.cue()
    stage.expect("went on")
    stage.cue()
    assert finish(process)[0] == 3


def test_sigtstp_is_ignored_in_an_orphaned_process_group(stage: Stage) -> None:
    """The kernel does not obey SIGTSTP in an orphaned process group."""
    process = stage.start(STOPPABLE, start_new_session=True)
    stage.next()
    process.send_signal(signal.SIGTSTP)
    process.send_signal(signal.SIGUSR1)
    stage.expect("signal")
    stage.cue()
    stage.cue()
    assert finish(process)[0] == 3


def test_start_process_ends_with_a_killed_foreground_process(stage: Stage) -> None:
    """It holds the one writing end of a pipe that is left."""
    reader, writer = os.pipe()
    process = stage.start("say('ready')\nidle()", pass_fds=[writer])
    os.close(writer)
    stage.expect("ready")
    process.kill()
    assert select.select([reader], (), (), SECONDS)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_step_aside_continues_in_python_with_a_clean_state(stage: Stage) -> None:
    tell = (
        "say([foreground_fd, *sys.argv[1:], signal.pthread_sigmask(signal.SIG_BLOCK, ())])\n"
        "say(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2 and"
        "    fd not in (os.environ['NEWS'], os.environ['CUES']) and"
        "    os.path.lexists(f'/proc/self/fd/{fd}')))\n"
        "os._exit(6)"
    )
    script = "os.write(foreground_fd, b'S')\ntime.sleep(0.03)\nsay('end')\nos._exit(0)"
    process = stage.start(script, "run", "a b", "c", plain=tell)
    assert finish(process) == (6, "", "")
    stage.expect("end")
    stage.expect([-1, "run", "a b", "c", {int(signal.SIGINT)}])  # as without a foreground process
    stage.expect([])


# -- the streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 137, 255])
def test_output_and_exit_code_of_the_application_are_passed_on(stage: Stage, code: int) -> None:
    script = (
        "link, _, out, err = attend(2 + 4)\nlink.send(b'B')\n"
        f"write(out, b'out')\nwrite(err, b'err')\nended(link, {code}, out, err)"
    )
    assert finish(stage.start(script)) == (code, "out", "err")


def test_output_left_in_the_pipe_is_copied_before_exit(stage: Stage) -> None:
    """They are still in the pipe when the end is told, and the monitor ends after that."""
    script = (
        "link, inward, out, err = attend(1 + 2 + 4)\nlink.send(b'B')\nwrite(err, b'x' * 60000)\n"
        "link.send(b'X\\x07\\0\\0\\0')\nos.close(err)\nsay(os.read(inward, 9))\n"
        "heard()\nwrite(out, b'last')\nos.close(out)\nheard()\nos._exit(0)"
    )
    process = stage.start(script)
    stage.expect(b"")  # nobody is there to read it
    stage.cue()
    assert process.stdout is not None
    assert process.stdout.read(4) == b"last"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    stage.cue()
    code, out, err = finish(process)
    assert (code, out, len(err)) == (7, "", 60000)


def test_large_data_passes_both_ways_through_slow_pipes(stage: Stage) -> None:
    """The play answers with what it gets, and drops some of its own on the other stream."""
    script = (
        "link, inward, out, err = attend(1 + 2 + 4)\nlink.send(b'B')\n"
        "while data := os.read(inward, 50000):\n"
        "    time.sleep(0.001)\n    write(out, data)\n    write(err, data[:700])\n"
        "ended(link, 0, out, err)"
    )
    data = os.urandom(3_000_000)
    process = stage.start(script)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    fds = {"in": process.stdin.fileno(), "out": process.stdout.fileno()}
    os.set_blocking(fds["in"], False)
    sent, found, turn = 0, hashlib.sha256(), 0
    while True:
        wanted = [fds["in"]] if sent < len(data) else []
        readable, writable, _ = select.select([fds["out"]], wanted, (), SECONDS)
        assert readable or writable
        if writable:
            sent += os.write(fds["in"], data[sent : sent + 300_000])
            if sent == len(data):
                process.stdin.close()
        if readable:
            piece = os.read(fds["out"], 30_000)
            found.update(piece)
            if not piece:
                break
            turn += 1
            if turn % 50 == 0:
                time.sleep(0.005)
        if select.select([process.stderr], (), (), 0)[0]:
            os.read(process.stderr.fileno(), 65536)
    assert found.hexdigest() == hashlib.sha256(data).hexdigest()
    assert process.wait(SECONDS) == 0


def test_stalled_reader_does_not_block_the_other_stream(stage: Stage) -> None:
    script = (
        "link, _, out, err = attend(2 + 4)\nlink.send(b'B')\nos.set_blocking(out, False)\n"
        "try:\n    while True:\n        os.write(out, b'x' * 4096), time.sleep(0.001)\n"
        "except BlockingIOError:\n    os.set_blocking(out, True)\n"
        "write(err, b'y' * 200000)\nheard()\nended(link, 0, out, err)"
    )
    process = stage.start(script)
    assert process.stderr is not None
    assert process.stderr.read(200_000) == b"y" * 200_000
    stage.cue()
    code, out, _ = finish(process)
    assert code == 0
    assert len(out) > 100_000
    assert set(out) == {"x"}


def test_closed_output_reaches_the_application_as_sigpipe(stage: Stage) -> None:
    script = (
        "link, _, out, err = attend(2 + 4)\nlink.send(b'B')\nheard()\nwrite(out, b'x')\n"
        "try:\n    while True:\n        write(out, b'x' * 5000)\n"
        "except BrokenPipeError:\n    pass\n"
        "write(err, b'on')\nended(link, 141, err)"
    )
    process = stage.start(script)
    assert process.stdout is not None
    process.stdout.close()
    stage.cue()
    assert process.stderr is not None
    assert process.stderr.read() == b"on"
    assert process.wait(SECONDS) == 141


def test_application_may_close_its_input(stage: Stage) -> None:
    script = (
        "link, inward, out, _ = attend(1 + 2)\nlink.send(b'B')\nos.close(inward)\nsay('closed')\n"
        "heard()\nwrite(out, b'x')\nended(link, 0, out)"
    )
    process = stage.start(script)
    stage.expect("closed")
    assert process.stdin is not None
    process.stdin.write(b"lost")
    process.stdin.flush()
    time.sleep(0.02)
    stage.cue()
    assert finish(process) == (0, "x", "")


def test_lost_output_is_reported_once(stage: Stage) -> None:
    script = (
        "link, _, out, _ = attend(2)\nlink.send(b'B')\n"
        "try:\n    while True:\n        write(out, b'x' * 5000)\n"
        "except BrokenPipeError:\n    ended(link, 4)"
    )
    with open("/dev/full", "wb") as full:
        process = stage.start(script, stdout=full)
        process.wait(SECONDS)
    assert process.returncode == 4
    assert process.stderr is not None
    lost = b"rless: warning: output of the container is lost: No space left on device\n"
    assert process.stderr.read() == lost


def test_files_and_sockets_can_replace_pipes(stage: Stage, tmp_path: Path) -> None:
    script = (
        "link, inward, out, err = attend(1 + 2 + 4)\nlink.send(b'B')\n"
        "while data := os.read(inward, 65536):\n    write(out, data), write(err, data)\n"
        "ended(link, 0, out, err)"
    )
    data = os.urandom(400_000)
    (tmp_path / "in").write_bytes(data)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink, ours:
        process = stage.start(script, stdin=source, stdout=sink, stderr=theirs)
        assert not os.get_blocking(theirs.fileno())
        theirs.close()
        found = b""
        while piece := ours.recv(65536):
            found += piece
        assert process.wait(SECONDS) == 0
    assert found == data
    assert (tmp_path / "out").read_bytes() == data


def test_flags_of_the_callers_descriptors_are_kept(stage: Stage) -> None:
    """A description that does not wait is shared with others, who rely on that."""
    script = "link, inward, out, _ = attend(1 + 2)\nlink.send(b'B')\nwrite(out, b'x' * 300000)\n"
    script += "while os.read(inward, 9):\n    pass\nended(link, 0, out)"
    reader, writer = os.pipe()
    source, feed = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(source, False)
    process = stage.start(script, stdin=source, stdout=writer)
    size = 0
    while size < 300_000:
        size += len(os.read(reader, 10_000))
    assert not os.get_blocking(writer)
    assert not os.get_blocking(source)
    assert process.poll() is None
    os.close(feed)
    assert process.wait(SECONDS) == 0
    for fd in (reader, writer, source):
        os.close(fd)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_stay_usable(stage: Stage, closed: str) -> None:
    script = (
        "say([stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)])\n"
        "while os.dup(0) < 3 if sys.stdin else os.open('/dev/null', 2) < 3:\n    pass\n"
        "link, inward, out, err = attend(1 + 2 + 4)\nlink.send(b'B')\n"
        "say(os.read(inward, 10))\nwrite(out, b'out')\nwrite(err, b'err')\n"
        "ended(link, 3, out, err)"
    )
    launcher = stage.launcher
    stage.launcher = Path("/bin/sh")
    process = stage.start(script, "-c", f'"{launcher}" run {closed}')
    code, out, err = finish(process, b"in")
    stage.expect(["<&-" in closed, " >&-" in f" {closed}", "2>&-" in closed])
    stage.expect(b"" if "<&-" in closed else b"in")
    assert code == 3
    assert out == ("" if " >&-" in f" {closed}" else "out")
    assert err == ("" if "2>&-" in closed else "err")


# -- signals after 'A' -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", ENDING)
def test_interrupt_before_the_application_starts_ends_the_start(stage: Stage, number: int) -> None:
    """The start process learns of it by the end of link and pipes, and is waited for."""
    script = (
        "link, _, out, _ = attend(2 + 16, b'', b'{1}')\nsay('ready')\nassert not link.recv(9)\n"
        "try:\n    write(out, b'x' * 200000)\nexcept BrokenPipeError:\n    say('end')\n"
        "heard()\nos._exit(0)"
    )
    process = stage.start(script)
    stage.expect("ready")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(number)
    stage.expect("end")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.02)
    stage.cue()
    found = taken_over(process)
    assert (found["state"], found["detail"]) == ("interrupted", str(int(number)))
    assert (found["link"], found["facts"]) == (-1, "{1}")
    assert set(found["pending"]) - {signal.SIGCHLD} == {signal.SIGUSR1}


def test_signals_are_forwarded_once_the_application_runs(stage: Stage) -> None:
    script = "link, _, out, _ = attend(2 + 16)\nsay('ready')\nheard()\nlink.send(b'B')\n" + HEAR
    process = stage.start(script)
    stage.expect("ready")
    for early in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGWINCH, signal.SIGURG):
        process.send_signal(early)
    assert not select.select([stage.news], (), (), 0.02)[0]
    stage.cue()
    stage.expect([ord("K"), int(signal.SIGUSR2)])
    for number in (*ENDING, signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 3):
        process.send_signal(signal.SIGPIPE)
        process.send_signal(number)
        stage.expect([ord("K"), int(number)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_third_interrupt_ends_the_command(stage: Stage, number: int) -> None:
    script = (
        OUTLIVE
        + "link, _, out, _ = attend(2 + 16)\nsay('ready')\nheard()\nlink.send(b'B')\n"
        + HEAR
    )
    process = stage.start(script)
    stage.expect("ready")
    process.send_signal(signal.SIGUSR1)
    stage.cue()
    stage.expect([ord("K"), int(signal.SIGUSR1)])
    for other in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(other)
        stage.expect([ord("K"), int(other)])
    process.send_signal(number)
    stage.expect("end")
    assert process.wait(SECONDS) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b"rless: the third SIGINT or SIGTERM ends the command\n"


def test_same_signals_are_forwarded_as_by_python(stage: Stage) -> None:
    """The same as by Python, see rootless/engine/attach/streams.py."""
    ours = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGTSTP,
            signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG, signal.SIGSEGV, signal.SIGBUS,
            signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
            signal.SIGWINCH}  # fmt: skip
    found = taken_over(stage.start("attend(2 + 16 + 32)\nidle()"))
    forwarded = signal.valid_signals() - ours
    assert set(found["blocked"]) == {int(number) for number in forwarded} | {
        int(signal.SIGCHLD), int(signal.SIGPIPE)}  # fmt: skip


def test_without_sig_proxy_signals_end_only_the_command(stage: Stage) -> None:
    script = "link, _, out, _ = attend(2)\nif os.fork():\n    idle()\nsay('ready')\n" + HEAR
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = stage.start(script)
        stage.expect("ready")
        process.send_signal(number)
        assert process.wait(SECONDS) == -number
        stage.expect("end")


def test_sigtstp_stops_only_the_command(stage: Stage) -> None:
    script = (
        "link, _, out, _ = attend(2 + 16)\nlink.send(b'B')\nsay(os.getpid())\nheard()\n"
        "say('goes on')\n" + HEAR
    )
    process = stage.start(script, preexec_fn=os.setpgrp)
    stage.next()
    process.send_signal(signal.SIGTSTP)
    wait_until(process.pid, "T")
    stage.cue()
    stage.expect("goes on")
    process.send_signal(signal.SIGCONT)
    stage.expect([ord("K"), int(signal.SIGCONT)])


def test_killed_foreground_process_closes_the_link(stage: Stage) -> None:
    """The process that notices is not the start process, which the kernel ends."""
    script = "link, _, out, _ = attend(2 + 16)\nif os.fork():\n    idle()\n"
    process = stage.start(script + "link.send(b'B')\nsay('ready')\n" + HEAR)
    stage.expect("ready")
    process.kill()
    stage.expect("end")


# -- detached --------------------------------------------------------------------------------------

DETACHED = OUTLIVE + "link = attend(8 + 16, {text!r})[0]\nlink.send(b'B')\n" + HEAR


def test_detached_run_prints_the_id(stage: Stage) -> None:
    process = stage.start(DETACHED.format(text=b"0123abc"))
    assert finish(process) == (0, "0123abc\n", "")
    stage.expect([ord("D")])
    stage.expect("end")
    assert finish(stage.start(DETACHED.format(text=b""))) == (0, "", "")


def test_detached_run_reports_an_unwritable_output(stage: Stage) -> None:
    with open("/dev/full", "wb") as full:
        process = stage.start(DETACHED.format(text=b"id"), stdout=full)
        code, error = process.wait(SECONDS), process.stderr
    assert code == 125
    assert error is not None
    what = "rless: cannot write to standard output"
    assert error.read().decode() == f"{what}: No space left on device\n"
    stage.expect([ord("D")])
    stage.expect("end")
    launcher, stage.launcher = stage.launcher, Path("/bin/sh")
    process = stage.start(DETACHED.format(text=b"id"), "-c", f"'{launcher}' run >&-")
    assert finish(process) == (125, "", f"{what}: Bad file descriptor\n")


# -- what is left to Python ------------------------------------------------------------------------


def test_python_can_take_over_an_attached_container(stage: Stage) -> None:
    """The descriptors work, nothing else is open, and a signal that came early is not lost."""
    script = OUTLIVE + (
        "link, inward, out, err = attend(1 + 2 + 4 + 16 + 32, b'', b'{\"a\": 1}')\n"
        "say(os.getpid())\nwrite(out, b'o')\nwrite(err, b'e')\nlink.send(b'B')\n"
        "say(os.read(inward, 9))\n" + HEAR
    )
    foreground = (
        "link, *fds = map(int, sys.argv[1:5])\nos.write(fds[0], b'i')\n"
        "assert os.read(fds[1], 9) + os.read(fds[2], 9) == b'oe'\n"
        "link = socket.socket(fileno=os.dup(link))\nassert link.recv(9) == b'B'\n"
        "link.send(b'D')\n" + FOREGROUND
    )
    process = stage.start(script, foreground=foreground)
    pid = int(stage.next())
    stage.expect(b"i")
    stage.expect([ord("D")])
    found = taken_over(process)
    assert (found["state"], found["detail"], found["facts"]) == ("attend", "", '{"a": 1}')
    assert (found["pid"], found["more"], found["pending"]) == (pid, [], [])
    inherited = {0, 1, 2, stage._told, stage._cued, found["link"], *found["streams"]}
    assert len(set(found["open"]) - inherited) == 1  # its copy of the link


def test_python_can_take_over_without_streams_and_signals(stage: Stage) -> None:
    found = taken_over(stage.start("attend(32)\nidle()"))
    assert found["streams"] == [-1, -1, -1]
    assert found["blocked"] == [signal.SIGPIPE, signal.SIGCHLD]


def test_failed_start_hands_the_link_to_python(stage: Stage) -> None:
    """Python gets the link, by which the end of the cleaning up is told."""
    script = (
        "link, *_ = attend(2 + 16)\nsay(os.getpid())\nheard()\n"
        "link.send(b'F[\"why\", null, 127]')\nlink.send(b'X\\x7f\\0\\0\\0')\nheard()\nos._exit(0)"
    )
    foreground = (
        "link = socket.socket(fileno=os.dup(int(sys.argv[1])))\nsay(link.recv(9))\n" + FOREGROUND
    )
    process = stage.start(script, foreground=foreground)
    pid = int(stage.next())
    process.send_signal(signal.SIGUSR1)
    stage.cue()
    stage.expect(b"X\x7f\0\0\0")
    found = taken_over(process)
    assert found["pid"] == pid
    assert (found["state"], found["detail"]) == ("failed", '["why", null, 127]')
    assert set(found["pending"]) - {signal.SIGCHLD} == {signal.SIGUSR1}


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "link.close()\nheard()"])
def test_output_is_copied_when_the_monitor_disappears(stage: Stage, end: str) -> None:
    """All that the application has written is copied before Python tells."""
    script = "link, _, out, _ = attend(2 + 16)\nlink.send(b'B')\nwrite(out, b'x' * 60000)\n"
    process = stage.start(script + ("os.close(out)\n" if "heard" in end else "") + end)
    code, out, _ = finish(process)
    assert code == 99
    assert out[:60000] == "x" * 60000
    found = json.loads(out[60000:])
    assert (found["state"], found["detail"]) == ("killed", "")
    assert found["streams"] == [-1, -1, -1]


def test_start_process_that_ends_early_is_reported(stage: Stage) -> None:
    for end in ("os._exit(9)", "link.close()\nos._exit(9)", "os.kill(os.getpid(), 9)"):
        process = stage.start(f"link, *_ = attend(2)\n{end}")
        assert taken_over(process)["state"] == "gone", end
    process = stage.start("link, *_ = attend(2)\nlink.send(b'Fx')\nos._exit(9)")
    assert taken_over(process)["state"] == "failed"


def test_exit_is_received_after_a_connection_reset(stage: Stage) -> None:
    """A monitor that ends with messages unread makes the kernel tell of a reset first."""
    script = (
        "link, _, out, _ = attend(2 + 16)\nlink.send(b'B')\nsay(os.getpid())\n"
        "select.select([link], (), ())\nsay('unread')\nheard()\nended(link, 8, out)"
    )
    process = stage.start(script)
    pid = int(stage.next())
    process.send_signal(signal.SIGUSR1)
    stage.expect("unread")
    process.send_signal(signal.SIGSTOP)
    wait_until(process.pid, "T")
    stage.cue()
    wait_until(pid, "Z")
    process.send_signal(signal.SIGCONT)
    assert finish(process)[0] == 8
