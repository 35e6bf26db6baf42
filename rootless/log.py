"""What happened, for `--debug` and for warnings; costs nothing when it is off.

No `logging`: it takes 9 ms to import. Lines go to standard error, each with the milliseconds
since the process started, so that `--debug` is also the time line of a start.
"""

from __future__ import annotations

import os
import time

from rootless.errors import escape, spoken, voice

enabled = False
_collected: list[str] | None = None


def _process_start() -> float:
    """Return when this process started, in seconds of CLOCK_BOOTTIME (proc_pid_stat(5))."""
    with open("/proc/self/stat", "rb") as stat:
        ticks = int(stat.read().rpartition(b")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _write(line: str) -> None:
    try:
        os.write(2, line.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a closed or full standard error must not change what the command does


def debug(message: str) -> None:
    """Print one line of the time line, if `--debug` is on."""
    if enabled:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        spent = 1000 * (now - _process_start())
        _write(f"rless[{os.getpid()}] {spent:8.1f} ms  {escape(message)}\n")


def warn(message: str) -> None:
    """Print one warning: what is lost and why."""
    if _collected is not None:
        _collected.append(message)
        return
    _write(f"{voice['warning']}{escape(spoken(message))}\n")


def collect() -> list[str]:
    """Keep warnings from now on, in place of printing them; return where they are kept."""
    global _collected
    _collected = []
    return _collected
