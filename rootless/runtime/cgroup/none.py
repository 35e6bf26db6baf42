"""No cgroup of its own: the container stays in that of the caller."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Rlimit


class NoCgroup:
    """Keep the caller's cgroup, and remember why."""

    __slots__ = ("cpus", "manager", "path", "resources", "rlimits", "why")

    def __init__(self, why: str) -> None:
        self.manager = "none"
        self.path: str | None = None
        self.why = why
        self.resources: dict[str, Any] = {}
        self.rlimits: list[Rlimit] = []
        self.cpus = ""

    def open(self) -> int:
        """Return -1: init is cloned into the caller's cgroup."""
        return -1

    def destroy(self) -> None:
        """Do nothing."""
