"""The resource usage of containers: from the control group where there is one, else from /proc.

Each number has a source of its own, because a host may account for one and not for another:

    CPU        cpu.stat             else utime + stime of the processes and of their ended children
    memory     memory.current       else the sum of resident sizes: shared pages count twice
    limit      memory.max           else the memory of this host
    block I/O  io.stat              else read_bytes and write_bytes of the running processes
    processes  pids.current         else their number
    network    the interfaces of the container's network namespace; of its loopback only what comes
               by published ports (`network.accounting`)
"""

from __future__ import annotations

import time

from rootless.engine.state import processes
from rootless.network import interfaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.state.container import Container


class Sample:
    """What a container has used up to a moment; all 0 for one that does not run.

    Attributes:
        at: seconds of the monotonic clock. cpu: seconds. memory, limit: bytes.
        received, sent, read, written: bytes. pids: processes (threads, with a control group).
    """

    def __init__(self, container: Container) -> None:
        self.at = time.monotonic()
        self.cpu = 0.0
        self.memory = self.limit = self.received = self.sent = self.read = self.written = 0
        self.pids = 0
        self.running = False
        init = container.init()
        if init is None:
            return
        self.running = True
        cgroup = container.run_record().get("cgroup") or ""
        found = processes.of(container)
        self.cpu = _cgroup_cpu(cgroup) or sum(_cpu(one) for one in found)
        self.memory = _cgroup_memory(cgroup) or sum(one.resident for one in found) * processes.PAGE
        self.limit = limit_of(cgroup)
        self.read, self.written = _cgroup_io(cgroup) or _io(found)
        self.pids = number(f"{cgroup}/pids.current") or len(found)
        self.received, self.sent = interfaces.counters(init[0])

    def cpu_percent(self, before: Sample) -> float:
        """Return the share of one CPU since an earlier sample, in percent, as Docker."""
        spent = self.at - before.at
        if not (self.running and before.running) or spent <= 0:
            return 0.0
        return max(0.0, 100 * (self.cpu - before.cpu) / spent)

    def memory_percent(self) -> float:
        """Return the share of the limit, in percent."""
        return 100 * self.memory / self.limit if self.limit else 0.0


def text_of(path: str) -> str:
    """Return what a file of a control group or of /proc says; "": it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def number(path: str) -> int:
    """Return the number that is all of a file; 0: it has none."""
    text = text_of(path).strip()
    return int(text) if text.isdigit() else 0


def fields(path: str) -> dict[str, int]:
    """Return the lines `name number` of a file: name -> number."""
    lines = (line.split() for line in text_of(path).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _cgroup_cpu(cgroup: str) -> float:
    return fields(f"{cgroup}/cpu.stat").get("usage_usec", 0) / 1e6 if cgroup else 0.0


def _cgroup_memory(cgroup: str) -> int:
    if not cgroup:
        return 0
    # As Docker: without the files that the kernel could drop at once.
    cached = fields(f"{cgroup}/memory.stat").get("inactive_file", 0)
    return max(0, number(f"{cgroup}/memory.current") - cached)


def limit_of(cgroup: str) -> int:
    """Return the limit of the memory in bytes: the host's where there is no other."""
    total = int(text_of("/proc/meminfo").split()[1]) * 1024
    own = number(f"{cgroup}/memory.max") if cgroup else 0
    return min(own, total) if own else total


def _cgroup_io(cgroup: str) -> tuple[int, int] | None:
    text = text_of(f"{cgroup}/io.stat") if cgroup else ""
    if not text:
        return None
    sums = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in sums and value.isdigit():
            sums[name] += int(value)
    return sums["rbytes"], sums["wbytes"]


def _cpu(one: processes.Process) -> float:
    return (one.user + one.system + one.children) / processes.TICKS


def _io(found: Sequence[processes.Process]) -> tuple[int, int]:
    read = written = 0
    for one in found:
        lines = (line.partition(": ") for line in text_of(f"/proc/{one.pid}/io").splitlines())
        values = {name: value for name, _, value in lines}
        read += int(values.get("read_bytes", 0))
        written += int(values.get("write_bytes", 0))
    return read, written
