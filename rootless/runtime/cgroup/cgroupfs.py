"""Cgroups made by hand in a part of the unified hierarchy that is ours (cgroups(7), v2).

It is ours if the caller can write to its own cgroup or to the nearest one above: in a service or
scope with Delegate=yes, in a job of Slurm, or in an outer container.
"""

from __future__ import annotations

import errno
import os
import time

from rootless.errors import RlessError
from rootless.linux.cgroup import find_own, membership, read_words, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rootless.oci.runtime_spec import Rlimit

# The group, beside those of containers, for the processes of rless that were where it is made.
SUPERVISOR = "supervisor"
_END = 2.0  # seconds that the kernel may take to end killed processes


class Group:
    """A cgroup directory in which the caller may make others."""

    __slots__ = ("directory", "why")

    def __init__(self, directory: str, why: str) -> None:
        self.directory = directory
        self.why = why

    def place(self, name: str) -> str:
        """Return where the cgroup of a container is made: right below."""
        return f"{self.directory}/{name.strip('/').replace('/', '-')}"

    def line(self) -> list[Group]:
        """Return the groups that are ours to divide, from the topmost one down to this."""
        found = [self]
        while is_writable(above := os.path.dirname(found[0].directory)):
            found.insert(0, Group(above, ""))
        return found

    def hand_down(self, everybody: bool) -> None:
        """Have the kernel account for each group below, if that can be.

        A group whose controllers go down has no processes itself (cgroups(7), "no internal
        processes"). In a unit or scope that was made for us they are all ours, and move to a
        group of their own. Where there are others, a shell say, they are left alone, unless a
        limit was asked for: then the groups below can halt and kill, but they count nothing.

        Args:
            everybody: move the others, too.
        """
        offered = set(read_words(f"{self.directory}/cgroup.controllers"))
        missing = sorted(offered.difference(read_words(f"{self.directory}/cgroup.subtree_control")))
        if not missing or not (everybody or has_only_us(self.directory, [os.getppid()])):
            return
        members = read_words(f"{self.directory}/cgroup.procs")
        try:
            self.move_down(members)
            self.enable(missing)
        except OSError:
            pass  # a threaded group, or another process has come

    def move_down(self, members: Sequence[str]) -> None:
        """Move processes from here into the group beside those of containers."""
        if not members:
            return
        os.makedirs(f"{self.directory}/{SUPERVISOR}", 0o755, exist_ok=True)
        for pid in members:
            _write(f"{self.directory}/{SUPERVISOR}/cgroup.procs", pid)

    def enable(self, controllers: Sequence[str]) -> None:
        """Give controllers to the groups below: all at once, else those that can be."""
        file = f"{self.directory}/cgroup.subtree_control"
        try:
            _write(file, " ".join(f"+{name}" for name in controllers))
        except OSError:
            for name in controllers:
                try:
                    _write(file, f"+{name}")
                except OSError:
                    pass  # busy: the limit that needs it is refused, with the reason


class CgroupfsCgroup:
    """One cgroup made by us."""

    __slots__ = ("cpus", "manager", "path", "resources", "rlimits", "why")

    def __init__(self, path: str, why: str, manager: str = "cgroupfs") -> None:
        self.manager = manager
        self.path: str | None = path
        self.why = why
        self.resources: dict[str, Any] = {}
        self.rlimits: list[Rlimit] = []
        self.cpus = ""

    def make_anew(self) -> None:
        """Make the directory again after `remove`; it may be there still.

        A kernel (seen: 6.18) kills what is cloned into a cgroup whose cgroup.kill was ever used.
        """
        assert self.path is not None
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            pass

    def open(self) -> int:
        """Return a descriptor of the directory, for CLONE_INTO_CGROUP."""
        assert self.path is not None
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def destroy(self) -> None:
        """Kill what is left (cgroup.kill, Linux 5.14) and remove the directories."""
        assert self.path is not None
        remove(self.path)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except ProcessLookupError:
        pass  # it has ended


def remove(path: str) -> None:
    """Kill all that is in the cgroup at `path`, and remove it with those below it."""
    try:
        with open(f"{path}/cgroup.kill", "w", encoding="utf-8") as file:
            file.write("1")
    except OSError:
        pass  # before Linux 5.14, or it is gone: the removal tells
    deadline = time.monotonic() + _END
    while True:
        try:
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def is_writable(directory: str) -> bool:
    """Tell whether we may make groups in a cgroup, and move processes there."""
    return os.access(directory, os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def has_only_us(directory: str, others: Sequence[int]) -> bool:
    """Tell whether all processes in a cgroup are this one, some others, or children of these."""
    family = {str(pid) for pid in (os.getpid(), *others)}
    for pid in tuple(family):
        family.update(read_words(f"/proc/{pid}/task/{pid}/children"))
    return family.issuperset(read_words(f"{directory}/cgroup.procs"))


def is_handed_over(directory: str) -> bool:
    """Tell whether systemd says that a unit's cgroup is its user's to divide (Delegate=yes)."""
    try:
        return os.getxattr(directory, "user.delegate") == b"1"
    except OSError:
        return False  # it does not, or is too old to do so: 252 is


def find_delegated() -> Group | str:
    """Return the nearest cgroup around the caller in which it may make others; else why not."""
    ours = membership()
    if not ours:
        return "this host has no unified cgroup hierarchy (v2)"
    directory = find_own()
    if directory is None:
        return "the unified cgroup hierarchy (v2) is not mounted"
    top = directory[: len(directory) - len(ours.rstrip("/"))]
    while not is_writable(directory):
        if directory == top:
            return f"cgroup {ours} is not delegated to you"
        directory = os.path.dirname(directory)
    if os.path.basename(directory) == SUPERVISOR:
        directory = os.path.dirname(directory)
    return Group(directory, f"{directory} is delegated")


def can_hold(path: str) -> bool:
    """Tell whether we may make a group at a path below the mount point, and start a process there.

    Whoever moves a process must be allowed to write where both its groups are (cgroups(7)).
    """
    top, own = root(), find_own()
    if top is None or own is None or ".." in path.split("/"):
        return False
    place = os.path.dirname(os.path.normpath(f"{top}/{path}"))
    if not is_writable(os.path.commonpath([own, place])):
        return False
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return is_writable(place)


def parent_group(parent: str) -> Group:
    """Return the cgroup that --cgroup-parent names, made where it is not there.

    Raises:
        RlessError: it is no path, or we may not make groups there.
    """
    flag = f"--cgroup-parent {parent}"
    top = root()
    if not parent.startswith("/") or ".." in parent.split("/"):
        raise RlessError(
            f"{flag}: without systemd it is a path", "begin with / below the root of the hierarchy"
        )
    if top is None:
        raise RlessError(f"{flag}: the unified cgroup hierarchy (v2) is not mounted")
    directory = os.path.normpath(top + parent)
    try:
        os.makedirs(directory, 0o755, exist_ok=True)
    except OSError as error:
        raise RlessError(
            f"{flag}: cannot make {error.filename}: {error.strerror}",
            "name a group below one that is delegated to you: see `rless doctor`",
        ) from error
    if not is_writable(directory):
        raise RlessError(
            f"{flag}: {directory} is not yours to divide",
            "name a group below one that is delegated to you: see `rless doctor`",
        )
    return Group(directory, f"{directory} was asked for")
