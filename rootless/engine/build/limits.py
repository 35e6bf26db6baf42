"""The control group of a build, where limits are asked for: all RUNs together are in it.

It is made by the build process, on the host, and removed at its end. What a killed build has left
is removed by the next one that makes a group.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless.engine.resources import parse_set
from rootless.linux.procfs import is_running, start_time
from rootless.runtime import cgroup
from rootless.runtime.cgroup.base import CgroupRequest

if TYPE_CHECKING:
    from rootless.engine.request import RunRequest
    from rootless.runtime.cgroup.base import Cgroup

_NAME = "rless-build-"


def make(settings: RunRequest) -> Cgroup | None:
    """Return the group of a build, with its limits; None: nothing is asked for.

    Raises:
        RlessError: a limit cannot be set here.
    """
    if not settings.asks_limits():
        return None
    manager = settings.manager()
    pid = os.getpid()
    request = CgroupRequest(f"{_NAME}{pid}-{start_time(pid) or 0}", manager, manager != "auto")
    request.parent = settings.cgroup_parent
    request.resources = settings.resources()
    request.best_effort = settings.limits == "try"
    request.hand_down = True
    request.description = "build"
    made = cgroup.choose(request)
    if made.cpus:
        os.sched_setaffinity(0, parse_set(made.cpus))  # the steps have it from us
    if made.path is not None:
        _clear(os.path.dirname(made.path))
    return made


def _clear(directory: str) -> None:
    """Remove the empty groups of builds that were killed."""
    for name in os.listdir(directory):
        pid, _, start = name.removeprefix(_NAME).partition("-")
        if not name.startswith(_NAME) or not (pid.isdigit() and start.isdigit()):
            continue
        if not is_running(int(pid), int(start)):
            try:
                os.rmdir(f"{directory}/{name}")
            except OSError:
                pass  # somebody is in it still, or another build was faster
