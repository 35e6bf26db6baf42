"""Output that is read after a process has ended."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from rootless.engine.attach.streams import Pump
from rootless.engine.exec import healthcheck

_FLOOD = """
import os, sys
for n in range(3):
    if os.fork() == 0:
        while True: os.write(1, bytes(1 << 16))
os.wait()
"""


@pytest.fixture
def flood() -> Iterator[int]:
    """Give a pipe that processes fill faster than it is read."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    process = subprocess.Popen(
        [sys.executable, "-Sc", _FLOOD], stdout=writer, start_new_session=True
    )
    os.close(writer)
    held = array.array("i", [0])
    while held[0] < 1 << 19:
        fcntl.ioctl(reader, termios.FIONREAD, held)
        time.sleep(0.01)
    yield reader
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Fail where it goes on for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it goes on for ever"))
    signal.alarm(4)
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as on a busy machine: the others have time to write."""
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: (time.sleep(0.01), read(fd, size))[1])


def test_last_output_of_a_command_is_read(flood: int) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    pump = Pump(-1)
    pump.add_output(flood, null)
    pump.drain(to_the_end=False)
    os.close(null)


def test_last_output_of_a_health_check_is_read(flood: int) -> None:
    ended = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(ended.pid)
    output, in_time = healthcheck._watch(pidfd, flood, time.monotonic() + 60)
    assert in_time
    assert len(output) == 4096
    ended.wait()
    os.close(pidfd)
    os.close(flood)
