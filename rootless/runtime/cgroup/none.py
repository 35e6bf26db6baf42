"""No cgroup of its own: the container stays in that of the caller."""

from __future__ import annotations


class NoCgroup:
    """Keep the caller's cgroup, and remember why."""

    __slots__ = ("manager", "path", "why")

    def __init__(self, why: str) -> None:
        self.manager = "none"
        self.path: str | None = None
        self.why = why

    def open(self) -> int:
        """Return -1: init is cloned into the caller's cgroup."""
        return -1

    def destroy(self) -> None:
        """Do nothing."""
