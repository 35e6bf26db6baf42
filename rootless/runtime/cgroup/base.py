"""What a cgroup manager gives the runtime: a place, how to enter it, how to end it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Cgroup(Protocol):
        """One container's cgroup.

        Attributes:
            manager: "cgroupfs", "none", ...
            path: the directory in the cgroup file system, None without one.
            why: why this manager, or why none; for `--explain` and `doctor`.
        """

        manager: str
        path: str | None
        why: str

        def open(self) -> int:
            """Return a descriptor for CLONE_INTO_CGROUP; -1: the caller's cgroup is kept."""

        def destroy(self) -> None:
            """Kill what is left in the cgroup, and remove it."""
