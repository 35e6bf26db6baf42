"""Signals that come while a process waits in poll(2)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[3]

# Another thread gets the signal. So poll is not interrupted, as by one that comes just before it.
_BEGIN = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
pid = os.fork()
if pid == 0:
    time.sleep(60)
    os._exit(1)
pidfd = os.pidfd_open(pid)
from rootless.runtime.host import foreground
from rootless.engine.attach import streams

def begin():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    print("ready", flush=True)
"""
_ATTEND = """
foreground.forward_signals(foreground.send_by(pidfd))
begin()
foreground.attend(pidfd, pid, None, None)
os._exit(7)
"""
_COPY = """
signals = streams.Signals(True)
signals.forward(lambda number: signal.pidfd_send_signal(pidfd, number))
begin()
streams.Pump(pidfd).wait()
os._exit(7)
"""


@pytest.mark.parametrize("script", [_ATTEND, _COPY])
def test_signal_just_before_poll_is_forwarded(script: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGIN + script, TREE], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    try:
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.communicate()
