"""All processes of a container: by its control group, or else by its pid namespace.

If it has neither, they are the descendants of its first process.
"""

from __future__ import annotations

import os

from rootless import paths
from rootless.errors import SyscallError
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.procfs import is_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def of(facts: dict[str, Any]) -> list[int]:
    """Return the pids of a container, in the caller's pid namespace; [] if it has ended.

    Without a pid namespace of its own, processes may be left when the first one has ended.

    Args:
        facts: of `state.Record.read`.
    """
    pid = facts["pid"]
    if not pid or facts["boot"] != paths.boot_id():
        return []
    found: set[int] = {pid} if is_running(pid, facts["start"]) else set()
    if facts.get("cgroup"):
        for directory, _, _ in os.walk(facts["cgroup"]):
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    # 0: it is in a pid namespace that we do not see into
                    found.update(int(line) for line in file if line != "0\n")
            except OSError:
                continue  # just removed, or threaded
        return sorted(found)
    if not found:
        return []
    own, ours = _namespace(pid), _namespace(os.getpid())
    if own and own != ours:
        found.update(other for other in _all() if _namespace(other) == own)
    else:
        _add_descendants(pid, found)
    return sorted(found)


def signal_all(facts: dict[str, Any], number: int) -> None:
    """Send a signal to all processes of a container: to none, if it has ended."""
    # The first one last: by its end, all of them may be gone, and nothing is known any more.
    for pid in sorted(of(facts), key=lambda pid: pid == facts["pid"]):
        try:
            pidfd = pidfd_open(pid)
        except SyscallError:
            continue  # it has ended
        try:
            # Held now: is it still one of them? Its number could be another's.
            if pid in of(facts):
                pidfd_send_signal(pidfd, number)
        except SyscallError:
            continue  # it has ended
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
