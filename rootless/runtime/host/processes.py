"""All processes of a container: by its control group, or else by its pid namespace.

If it has neither, they are the descendants of its first process.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux.process import is_running, pidfd_open, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def of(facts: dict[str, Any]) -> list[int]:
    """Return the pids of a running container, in the caller's pid namespace.

    Args:
        facts: of `state.Record.read`.

    Raises:
        RlessError: it is not running.
    """
    pid = facts["pid"]
    if not pid or not is_running(pid, facts["start"]):
        raise RlessError("the container is not running", exit_code=1)
    found: set[int] = {pid}
    if facts.get("cgroup"):
        for directory, _, _ in os.walk(facts["cgroup"]):
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    # 0: it is in a pid namespace that we do not see into
                    found.update(int(line) for line in file if line != "0\n")
            except OSError:
                continue  # just removed, or threaded
        return sorted(found)
    own, ours = _namespace(pid), _namespace(os.getpid())
    if own and own != ours:
        found.update(other for other in _all() if _namespace(other) == own)
    else:
        _add_descendants(pid, found)
    return sorted(found)


def signal_all(facts: dict[str, Any], number: int) -> None:
    """Send a signal to all processes of a container: to none, if it has ended."""
    try:
        pids = of(facts)
    except RlessError:
        return
    # The first one last: by its end, all of them may be gone, and nothing is known any more.
    for pid in sorted(pids, key=lambda pid: pid == facts["pid"]):
        try:
            pidfd = pidfd_open(pid)
        except SyscallError:
            continue  # it has ended
        try:
            # Held now: is it still one of them? Its number could be another's.
            if pid in of(facts):
                pidfd_send_signal(pidfd, number)
        except RlessError:
            continue  # it has ended, or all have
        finally:
            os.close(pidfd)


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _add_descendants(pid: int, found: set[int]) -> None:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in children:
            if child not in found:
                found.add(child)
                _add_descendants(child, found)
