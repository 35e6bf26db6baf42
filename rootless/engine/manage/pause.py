"""Pause and unpause all processes of a container.

A container with a control group of its own is paused by that: the kernel freezes all processes at
one moment, and none of them can notice. Otherwise each process gets SIGSTOP, the first one first,
until none is found running; a process may notice that, and so may its parent.

Whether a container is paused is read from the kernel, never remembered.
"""

from __future__ import annotations

import os
import time

from rootless.engine.state import events
from rootless.errors import CONFLICT, RlessError, SyscallError
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.procfs import start_time
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.state.container import Container
    from rootless.engine.state.processes import Process

_ROUNDS = 100  # of SIGSTOP: a fork bomb cannot be halted this way
_FREEZE = 5.0  # seconds that the kernel may take


def is_paused(container: Container) -> bool:
    """Tell whether a running container is paused."""
    cgroup = container.run_record().get("cgroup")
    if cgroup:
        try:
            with open(f"{cgroup}/cgroup.freeze", "rb") as file:
                if file.read().strip() == b"1":
                    return True
        except OSError:
            pass  # before Linux 5.2, or it is gone
    init = container.init()
    return init is not None and _state(init[0]) == b"T"


def _state(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return b""


def pause(container: Container) -> str | None:
    """Halt all processes; return why it had to be done without a control group, if so.

    Raises:
        RlessError: it does not run, is paused already, or cannot be halted.
    """
    name = container.facts["name"]
    if container.init() is None:
        raise RlessError(f"container {name} is not running", exit_code=1, kind=CONFLICT)
    if is_paused(container):
        raise RlessError(f"container {name} is already paused", exit_code=1, kind=CONFLICT)
    cgroup = container.run_record().get("cgroup")
    why: str | None = None
    if cgroup:
        from rootless.engine.state import processes

        why = _freeze(cgroup, True)
        # Those of `exec` may lie outside of it.
        _stop_all(container, () if why is not None else processes.in_cgroup(cgroup))
    else:
        why = "no control group"
        _stop_all(container)
    events.of_container("pause", container)
    return why


def unpause(container: Container) -> None:
    """Let all processes go on.

    Raises:
        RlessError: it does not run, or is not paused.
    """
    name = container.facts["name"]
    if container.init() is None:
        raise RlessError(f"container {name} is not running", exit_code=1, kind=CONFLICT)
    if not is_paused(container):
        raise RlessError(f"container {name} is not paused", exit_code=1, kind=CONFLICT)
    thaw(container)
    events.of_container("unpause", container)


def thaw(container: Container) -> None:
    """Let all processes go on, whichever way they were halted; for `stop` and `unpause`."""
    cgroup = container.run_record().get("cgroup")
    if cgroup:
        _freeze(cgroup, False)
    from rootless.engine.state import processes

    # The first one last: while it is stopped, the container counts as paused.
    for process in reversed(processes.of(container)):
        if process.state == "T":
            _signal(process, signal.SIGCONT)


def _freeze(cgroup: str, frozen: bool) -> str | None:
    """Freeze or thaw a control group, and wait until it is; return why it cannot be."""
    try:
        with open(f"{cgroup}/cgroup.freeze", "w", encoding="utf-8") as file:
            file.write(str(int(frozen)))
        deadline = time.monotonic() + _FREEZE
        while frozen:
            with open(f"{cgroup}/cgroup.events", encoding="utf-8") as file:
                if "frozen 1" in file.read():
                    break
            if time.monotonic() > deadline:
                _freeze(cgroup, False)
                raise RlessError("the kernel did not halt all processes in time", exit_code=1)
            time.sleep(0.002)
    except OSError as error:
        return f"{cgroup}/cgroup.freeze: {error.strerror}"
    return None


def _stop_all(container: Container, frozen: Sequence[int] = ()) -> None:
    from rootless.engine.state import processes

    for _ in range(_ROUNDS):
        found = [one for one in processes.of(container) if one.pid not in frozen]
        running = [one for one in found if one.state not in "TZXt"]
        if not running:
            return
        for process in running:
            _signal(process, signal.SIGSTOP)
        time.sleep(0.001)
    thaw(container)
    raise RlessError(
        f"container {container.facts['name']}: "
        "new processes are created faster than they can be paused",
        "this needs a control group: see `rless doctor`",
        1,
    )


def _signal(process: Process, number: int) -> None:
    """Signal a process of a container, unless its number has become another's."""
    try:
        pidfd = pidfd_open(process.pid)
    except SyscallError:
        return
    try:
        if start_time(process.pid) == process.start:
            pidfd_send_signal(pidfd, number)
    except SyscallError as error:
        if error.errno != 3:  # ESRCH: it has ended
            raise
    finally:
        os.close(pidfd)
