"""The foreground process: the launcher in C, or a fork of Python; both keep the same rules."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless.engine.attach.foreground import fork_foreground
from tests.engine.manage.test_kill import clear_and_check
from tests.lib.product import (
    Product,
    launcher,
    own_rless,
    python_launcher,
    rless,
    shared_product,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["own_rless", "rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces")


@pytest.fixture(params=["launcher", "python"])
def kind(rless: Product, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    words = launcher() if request.param == "launcher" else python_launcher()
    monkeypatch.setattr(rless, "argv", lambda *more: [*words, *more])
    return str(request.param)


class Runs:
    """Runs in the background, whose pipes are closed in the end."""

    def __init__(self, rless: Product) -> None:
        self.rless = rless
        self.all: list[subprocess.Popen[bytes]] = []

    def __call__(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.rless.argv("run", "--network", "none", *words),
            env=self.rless.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )
        self.all.append(process)
        return process

    def close(self) -> None:
        for process in self.all:
            process.kill()
            process.wait(10)
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stream.close()


@pytest.fixture
def begin(rless: Product) -> Iterator[Runs]:
    runs = Runs(rless)
    yield runs
    runs.close()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_exit_codes_are_passed_on(rless: Product, kind: str) -> None:
    run = ("run", "--rm", "--network", "none", rless.image)
    assert rless(*run, "sh", "-c", "echo out; echo err >&2; exit 9").expect(9).out == "out\n"
    assert "no such file" in rless(*run, "/none").expect(127).one_line_error()
    assert "cannot execute" in rless(*run, "/etc/passwd").expect(126).one_line_error()
    assert "-v" in rless("run", "-v", "x:y:z:a", rless.image).expect(125).one_line_error()
    assert not rless.containers()
    rless.assert_clean()


def test_failed_start_is_reported_once(rless: Product, kind: str) -> None:
    flags = ("--network", "none", "-w", "/proc/self/none")
    done = rless("run", *flags, rless.image, "true").expect(125)
    assert done.one_line_error()
    assert not rless.containers()
    rless("run", "-d", *flags, rless.image, "true").expect(125).one_line_error()
    assert not rless.containers()
    rless.assert_clean()


def test_input_and_output_of_any_size_pass_through(rless: Product, kind: str) -> None:
    data = os.urandom(1 << 20)
    flags = ("run", "--rm", "-i", "--network", "none", rless.image)
    done = rless(*flags, "sh", "-c", "tee /dev/stderr", stdin=data)
    assert done.expect().raw == data
    assert done.err.encode("utf-8", "surrogateescape") == data


@pytest.mark.parametrize("detach", [(), ("-d",)])
def test_start_needs_only_one_python(rless: Product, begin: Runs, kind: str, detach: Any) -> None:
    """And none once the application runs, where the launcher is the foreground process."""
    script = "echo ready; exec sleep 600"
    process = begin("--name", "box", *detach, rless.image, "sh", "-c", script)
    wait_for(lambda: rless("ps", "-q").out, "the container")
    try:
        if detach:
            assert process.wait(10) == 0
        else:
            # One that is removed before the application runs is a start that failed.
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with open(f"/proc/{process.pid}/comm") as file:
                comm = file.read().strip()
            assert (comm == "rless") is (kind == "launcher"), comm
            (monitor,) = children(process.pid)
            # It is shown as running a moment before its start process becomes the monitor.
            comm_file = Path(f"/proc/{monitor}/comm")
            wait_for(lambda: comm_file.read_text().strip() == "rless-monitor", "the monitor")
    finally:
        rless("rm", "-f", "box").expect()
    assert process.wait(10) == (0 if detach else 137)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_application(
    rless: Product, begin: Runs, kind: str, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.02; done"
    process = begin("--rm", rless.image, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.stdout.read() == f"got {name}\n".encode()
    assert process.wait(10) == 5
    rless.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_at_any_moment_ends_the_start(
    rless: Product, begin: Runs, kind: str, number: signal.Signals
) -> None:
    """Before the application runs, or as it would end any program; nothing is left."""
    for milliseconds in range(0, 60, 4):
        process = begin("--rm", rless.image, "sh", "-c", "trap - TERM INT; sleep 600")
        time.sleep(milliseconds / 1000)
        process.send_signal(number)
        time.sleep(0.05)
        while process.poll() is None:  # the first process of a container ignores them by default
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert process.stderr is not None
        said = process.stderr.read()
        if kind == "python" and said.startswith(b"Fatal Python error: "):
            continue  # the interpreter, within its own start: nothing of ours has begun
        # By the signal itself: Python had no handler yet.
        assert process.returncode in (128 + number, -number, 125, -signal.SIGKILL, 137), said
        # A key comes before there is anybody to catch it: then Python says what it does.
        assert kind == "python" or b"Traceback" not in said
    clear_and_check(rless)


@pytest.mark.parametrize("detach", [(), ("-d",)])
def test_killed_foreground_process_leaves_nothing(
    rless: Product, begin: Runs, kind: str, detach: Any
) -> None:
    for milliseconds in range(0, 80, 5):
        process = begin("--rm", *detach, rless.image, "sleep", "600")
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait(10)
    clear_and_check(rless)


def test_killed_start_process_is_reported(rless: Product, begin: Runs, kind: str) -> None:
    for milliseconds in range(2, 80, 6):
        process = begin("--rm", rless.image, "sleep", "600")
        time.sleep(milliseconds / 1000)
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        try:
            code = process.wait(0.5)
        except subprocess.TimeoutExpired:  # it had no child yet
            process.terminate()
            process.kill()
            code = process.wait(10)
            if code == -signal.SIGTERM:
                continue  # nor a handler: the machine is busy
        assert code in (137, -signal.SIGKILL), (kind, milliseconds)
    clear_and_check(rless)


def test_cpu_time_of_a_start_is_accounted_to_the_command(rless: Product, kind: str) -> None:
    """As time(1) shows it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rless("run", "--rm", "--network", "none", rless.image, "true").expect()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime > 0.005


def test_foreground_process_stays_in_its_session(rless: Product, begin: Runs, kind: str) -> None:
    """The start process does not: a key of the terminal is for one of them."""
    process = begin("--rm", rless.image, "sleep", "600", start_new_session=True)
    wait_for(lambda: rless("ps", "-q").out, "the container")
    (monitor,) = children(process.pid)
    assert os.getsid(process.pid) == process.pid
    assert os.getsid(monitor) == monitor
    process.kill()
    process.wait(10)
    wait_for(lambda: not rless("ps", "-qa").out, "the container to end with the foreground process")
    rless.assert_clean()


@pytest.mark.needs("pasta", "tun")
def test_container_with_a_network_runs(rless: Product, kind: str) -> None:
    port = 18944 if kind == "launcher" else 18945  # the two may run at once
    run = ("run", "--rm", "-p", f"127.0.0.1:{port}:80", rless.image)
    assert "eth0" in rless(*run, "cat", "/proc/net/dev").expect().out
    rless(*run, "/none").expect(127).one_line_error()
    rless.assert_clean()


@pytest.mark.parametrize("step", ["setsid", "getppid"])
def test_early_interrupt_ends_the_start(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """It ends the start as later on: a start process that fails silently would exit with 70."""
    here = os.getpid()

    def interrupted() -> int:
        if os.getpid() != here:
            signal.raise_signal(signal.SIGINT)
        return here

    monkeypatch.setattr(os, step, interrupted)
    assert fork_foreground(lambda _: 0) == 130
