"""A transient scope of the user's own systemd, in which the container's cgroup is made.

    user.slice/
      rless-ID.scope     made by systemd for the monitor, and delegated (Delegate=yes)
        supervisor       the monitor and its helpers
        container        init and its descendants; the limits; the root of its cgroup namespace

A group that passes controllers down has no processes itself (cgroups(7)), so there are two below
the scope. The limits are set on `container`. Settings that divide between siblings (weights,
protection) compare the scope with other units, so the scope has them too. It also has the limits of
memory and tasks, with some room for the monitor, so that `systemctl --user show` shows them.

systemd needs some milliseconds, so the request is sent early and the answer read late (`Scope`). A
user's process cannot leave its login session by itself; the user's systemd moves it, with the help
of the system's (`attach`).

Source: org.freedesktop.systemd1(5); https://systemd.io/CGROUP_DELEGATION/
"""

from __future__ import annotations

import os
import time

from rootless.errors import RlessError
from rootless.linux.cgroup import find_own, membership
from rootless.linux.dbus import SIGNAL, DBusError
from rootless.runtime.cgroup import patience
from rootless.runtime.cgroup import resources as limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rootless.linux.dbus import Connection
    from rootless.runtime.cgroup.base import CgroupRequest

_INTERFACE = "org.freedesktop.systemd1.Manager"
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", _INTERFACE)
_JOBS = (
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',"
    f"interface='{_INTERFACE}',member='JobRemoved'"
)
_JOB_REMOVED = (SIGNAL, _INTERFACE, "JobRemoved")
_EXISTS = "org.freedesktop.systemd1.UnitExists"
_AGAIN = 5.0  # seconds for the last scope of this name to go
_INFINITY = 2**64 - 1
DEFAULT_SLICE = "user.slice"
_SLICE = ".slice"
# Room for the monitor, a health check and those who come by `exec`, above the container's limits.
ROOM_TASKS = 64
ROOM_MEMORY = 32 << 20  # bytes


def unit_name(name: str) -> str:
    """Return the name of a scope; what none may have is replaced (systemd.unit(5))."""
    kept = "".join(char if _is_plain(char) or char in ":-_.\\" else "_" for char in name)
    return f"{kept[:200]}.scope"


def properties(resources: dict[str, Any]) -> list[tuple[str, tuple[str, Any]]]:
    """Return what the scope itself has of the limits (systemd.resource-control(5))."""
    found: dict[str, tuple[str, Any]] = {"TasksMax": ("t", _INFINITY)}
    for file, value in limits.files(resources):
        name, room = _PROPERTIES.get(file, ("", 0))
        number = value.removeprefix("default ")
        if name and value == "max":
            found[name] = ("t", _INFINITY)
        elif name and number.isascii() and number.isdigit():  # `unified` may have others
            found[name] = ("t", min(int(number) + room, _INFINITY))
    return list(found.items())


# file -> (property, what is added)
_PROPERTIES = {
    "cpu.weight": ("CPUWeight", 0),
    "io.weight": ("IOWeight", 0),
    "memory.low": ("MemoryLow", 0),
    "memory.max": ("MemoryMax", ROOM_MEMORY),
    "memory.min": ("MemoryMin", 0),
    "pids.max": ("TasksMax", ROOM_TASKS),
}


class Scope:
    """A scope that was requested, and is made meanwhile. Only `wait` blocks."""

    def __init__(self, connection: Connection, request: CgroupRequest, pids: Sequence[int]) -> None:
        """Make the request.

        Args:
            connection: to systemd, made on the host's side of the user namespace.
            pids: of the processes that are to be in it.

        Raises:
            RlessError: the request cannot be a scope.
        """
        parent = request.parent or DEFAULT_SLICE
        if not parent.endswith(_SLICE) or "/" in parent or len(parent) <= len(_SLICE):
            raise RlessError(
                f"--cgroup-parent {parent}: with systemd it is a slice",
                'a valid one is named as "xxx.slice"',
            )
        self.unit = unit_name(request.name)
        self._pids = pids
        resources = dict(request.resources)
        if request.default_pids is not None and "pids" not in resources:
            resources["pids"] = {"limit": request.default_pids}
        wanted: list[tuple[str, tuple[str, Any]]] = [
            ("Description", ("s", request.description)),
            ("PIDs", ("au", list(pids))),
            ("Slice", ("s", parent)),
            ("Delegate", ("b", True)),
            ("CollectMode", ("s", "inactive-or-failed")),
            *properties(resources),
        ]
        if request.stop_timeout is not None:
            wanted.append(("TimeoutStopUSec", ("t", int(1e6 * request.stop_timeout))))
        self._arguments: tuple[Any, ...] = (self.unit, "fail", wanted, [])
        self._connection = connection
        self._request = 0

    def ask(self) -> None:
        """Send the request: a round trip that overlaps with other work.

        Raises:
            DBusError: systemd has not let us in.
        """
        if self._connection.broker:
            # A manager tells of jobs on the bus only if somebody has asked it to.
            self._connection.listen(_JOBS)
            self._connection.call(_MANAGER, "Subscribe")
        self._start()

    def _start(self) -> None:
        self._request = self._connection.call(
            _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", *self._arguments
        )
        self._connection.send()

    def finish(self) -> str:
        """Wait until this process is in the scope; return its directory.

        Raises:
            RlessError: systemd refuses, or there is no unified hierarchy.
        """
        self.wait()
        directory = find_own()
        if directory is None:
            raise RlessError("there is no unified cgroup hierarchy (v2)")
        if os.path.basename(directory) != self.unit:
            raise RlessError(f"systemd did not move us into {self.unit}")
        return directory

    def wait(self) -> None:
        """Wait until the processes are in the scope.

        The kernel is asked for that before anything is read: what systemd tells then is only that
        it is worth looking again, or why it will not be.

        Raises:
            RlessError: systemd refuses.
        """
        now = time.monotonic()
        most = self._connection.patience
        again, deadline, job = now + _AGAIN, now + most, ""
        while not self._has(self._pids):
            message = self._connection.receive(deadline)
            try:
                if message.answers(self._request):
                    job, deadline = message.body[0], time.monotonic() + most
            except DBusError as error:
                # The monitor of the last start has not quite ended.
                if error.name != _EXISTS or time.monotonic() > again:
                    raise
                time.sleep(0.01)
                self._start()
            if (message.kind, message.interface, message.member) == _JOB_REMOVED:
                _, removed, _, result = message.body[:4]
                if removed == job and result != "done":
                    raise RlessError(f"systemd could not start {self.unit}: {result}")
                if removed == job:
                    break

    def _has(self, pids: Sequence[int]) -> bool:
        return all(membership(pid).endswith(f"/{self.unit}") for pid in pids)

    def adopt(self, pids: Sequence[int]) -> None:
        """Bring in helpers that were started meanwhile.

        Raises:
            DBusError: systemd refuses.
        """
        outside = [pid for pid in pids if not self._has([pid])]
        if outside:
            self._connection.answer(_ask_to_move(self._connection, self.unit, "", outside))


def _ask_to_move(connection: Connection, unit: str, below: str, pids: Sequence[int]) -> int:
    call = connection.call(_MANAGER, "AttachProcessesToUnit", "ssau", unit, below, list(pids))
    connection.send()
    return call


def unit_of(directory: str) -> tuple[str, str]:
    """Return the unit that a cgroup lies in, and the path below it; ("", "") for none."""
    parts = directory.split("/")
    for at in range(len(parts) - 1, 0, -1):
        if parts[at].endswith((".scope", ".service")):
            return parts[at], "".join(f"/{part}" for part in parts[at + 1 :])
    return "", ""


def _is_plain(char: str) -> bool:
    return char.isascii() and char.isalnum()


def is_delegated(directory: str, sockets: Sequence[tuple[str, bool]]) -> bool:
    """Ask whether a cgroup is a unit's that may be divided (Delegate=yes)."""
    unit, below = unit_of(directory)
    if not unit or below:
        return False
    kind = "Scope" if unit.endswith(".scope") else "Service"
    path = "".join(
        char if _is_plain(char) and (at or not char.isdigit()) else f"_{ord(char):02x}"
        for at, char in enumerate(unit)
    )
    to = (_MANAGER[0], f"{_MANAGER[1]}/unit/{path}", "org.freedesktop.DBus.Properties")
    try:
        connection = patience.reach(sockets)
        try:
            call = connection.call(to, "Get", "ss", f"org.freedesktop.systemd1.{kind}", "Delegate")
            connection.send()
            return connection.answer(call) == [True]
        finally:
            connection.close()
    except DBusError as error:
        patience.remember(error)
        return False


def attach(directory: str, pid: int, sockets: Sequence[tuple[str, bool]], deeper: str = "") -> None:
    """Move a process of ours from wherever it is into a cgroup below a delegated unit.

    Args:
        deeper: the path of one below the directory, whose names may look like units.

    Raises:
        DBusError: systemd refuses.
    """
    unit, below = unit_of(directory)
    if not unit:
        raise DBusError(f"{directory} is in no unit of systemd")
    connection = patience.reach(sockets)
    try:
        connection.answer(_ask_to_move(connection, unit, below + deeper, [pid]))
    finally:
        connection.close()


def change(directory: str, resources: dict[str, Any], sockets: Sequence[tuple[str, bool]]) -> None:
    """Change what the scope around a container's cgroup has of the limits.

    Raises:
        DBusError: systemd refuses.
    """
    unit, _ = unit_of(directory)
    connection = patience.reach(sockets)
    try:
        call = connection.call(
            _MANAGER, "SetUnitProperties", "sba(sv)", unit, True, properties(resources)
        )
        connection.send()
        connection.answer(call)
    finally:
        connection.close()
