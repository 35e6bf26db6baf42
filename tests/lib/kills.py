"""SIGKILL at a random moment of something, so that it hits before the end, however busy it is here.

moments = Moments(seed=7)
while moments.hits["pull"] < 40:
    moments.kill("pull", process)          # True: it was still at work

How long a thing takes is learned from each that ended before its kill; after each hit a little
more is tried, so that the late moments have their turn as well.
"""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable

_TRIES = 4  # for each hit that is wanted; the rest is a fault of the test


class Moments:
    """Choose moments; count what they hit.

    Attributes:
        hits, misses: by name of the thing.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._durations: dict[str, float] = {}
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()

    def measured(self, name: str, seconds: float) -> None:
        """Say how long the thing takes when nobody kills it."""
        self._durations[name] = seconds

    def kill(self, name: str, pid: int) -> bool:
        """Kill a child that has just been started, and reap it; tell whether it was at work."""
        moment = self._chance.uniform(0, 1) * self._durations[name]
        begin = time.monotonic()
        fd = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(1000 * moment)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)
        seconds = time.monotonic() - begin
        _, status = os.waitpid(pid, 0)
        hit = os.WIFSIGNALED(status)
        if hit:
            self.hits[name] += 1
            self._durations[name] *= 1.02
        else:
            assert os.WEXITSTATUS(status) == 0, f"{name} failed by itself"
            self.misses[name] += 1
            self._durations[name] = seconds
        assert self.misses[name] <= _TRIES * (self.hits[name] + 5), f"{name}: hardly ever hit"
        return hit


def forked(act: Callable[[], None]) -> int:
    """Start `act` in a child that says nothing; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 2)
            act()
            code = 0
        finally:
            os._exit(code)
    return pid
