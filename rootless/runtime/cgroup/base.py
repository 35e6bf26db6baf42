"""The interface of the cgroup managers: the request, and the cgroup that they make of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from rootless.oci.runtime_spec import Rlimit

    class Cgroup(Protocol):
        """One container's cgroup.

        Attributes:
            manager: "systemd", "cgroupfs" or "none".
            path: the directory in the cgroup file system, None without one.
            why: why this manager, or why none; for `--explain` and `doctor`.
            resources: `linux.resources` as they were set in the end.
            rlimits: in place of limits that cannot be set (`CgroupRequest.best_effort`).
            cpus: that processes are to run on by their affinity, as "0-2,7"; "": no matter.
        """

        manager: str
        path: str | None
        why: str
        resources: dict[str, Any]
        rlimits: list[Rlimit]
        cpus: str

        def open(self) -> int:
            """Return a descriptor for CLONE_INTO_CGROUP; -1: the caller's cgroup is kept."""

        def destroy(self) -> None:
            """Kill what is left in the cgroup, and remove it."""


MANAGERS = ("systemd", "cgroupfs", "none")


class CgroupRequest:
    """A request for a cgroup.

    Attributes:
        name: of the container's group; systemd's scope is named after it.
        manager: one of MANAGERS, or "auto": the first that works.
        required: the user chose the manager, so no other will do.
        parent: a slice of systemd, or an absolute path of cgroupfs; None: the default.
        resources: `linux.resources`, without device rules and empty objects.
        default_pids: the limit of processes if none is requested and one can be set; None: none.
        best_effort: a limit that cannot be set is replaced by a resource limit, with a warning.
        hand_down: the caller's own processes may be moved, if that lets the kernel account.
        description: of the scope.
        stop_timeout: seconds that the scope has to end in; None: systemd's default.
    """

    __slots__ = (
        *("best_effort", "default_pids", "description", "hand_down", "manager", "name", "parent"),
        *("required", "resources", "stop_timeout"),
    )

    def __init__(self, name: str, manager: str = "auto", required: bool = False) -> None:
        self.name = name
        self.manager = manager
        self.required = required
        self.parent: str | None = None
        self.resources: dict[str, Any] = {}
        self.default_pids: int | None = None
        self.best_effort = False
        self.hand_down = False
        self.description = f"container {name}"
        self.stop_timeout: float | None = None
