"""A cgroup made by hand in a delegated part of the unified hierarchy (cgroups(7), v2).

Delegated means here: the cgroup that we are in is writable for us, as in a service or scope
with Delegate=yes, in a job of Slurm, or in an outer container.
"""

from __future__ import annotations

import errno
import os
import time

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
# The group, beside those of containers, for the processes of rless that were where it is made.
_SUPERVISOR = "supervisor"
_END = 2.0  # seconds that the kernel may take to end killed processes


class Delegated:
    """A cgroup directory in which the caller may make others."""

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def make(self, name: str) -> CgroupfsCgroup:
        """Make the cgroup of a container below; OSError where the kernel refuses."""
        path = f"{self.directory}/{name.strip('/').replace('/', '-')}"
        os.mkdir(path, 0o755)
        return CgroupfsCgroup(path, f"{self.directory} is delegated")

    def hand_down(self) -> None:
        """Have the kernel account for each group below, if only rless is in the way.

        A group whose controllers go down has no processes itself (cgroups(7), "no internal
        processes"). In a unit or scope that was made for us they are all ours, and move to a
        group of their own. Where there are others, a shell say, they are left alone: then the
        groups below can halt and kill, but they count nothing.
        """
        offered = set(self._read("cgroup.controllers"))
        missing = sorted(offered.difference(self._read("cgroup.subtree_control")))
        members = self._read("cgroup.procs")
        if not missing or not _family().issuperset(members):
            return
        try:
            os.makedirs(f"{self.directory}/{_SUPERVISOR}", 0o755, exist_ok=True)
            for pid in members:
                _write(f"{self.directory}/{_SUPERVISOR}/cgroup.procs", pid)
            for name in missing:
                _write(f"{self.directory}/cgroup.subtree_control", f"+{name}")
        except OSError:
            pass  # a threaded group, or another process has come

    def _read(self, name: str) -> list[str]:
        try:
            with open(f"{self.directory}/{name}", encoding="utf-8") as file:
                return file.read().split()
        except OSError:
            return []


class CgroupfsCgroup:
    """One cgroup made by us."""

    __slots__ = ("manager", "path", "why")

    def __init__(self, path: str, why: str) -> None:
        self.manager = "cgroupfs"
        self.path: str | None = path
        self.why = why

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


def _family() -> set[str]:
    """Return the pids of this process, of the command that forked it, and of its children."""
    found = {str(os.getpid()), str(os.getppid())}
    for pid in tuple(found):
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
                found.update(file.read().split())
        except OSError:
            pass  # a kernel without CONFIG_PROC_CHILDREN: others may seem to be there
    return found


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


def find_delegated() -> Delegated | str:
    """Return the caller's own cgroup if it may make others in it; else why not."""
    try:
        with open("/proc/self/cgroup", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        return f"/proc/self/cgroup: {error.strerror}"
    ours = next((line[3:].decode() for line in lines if line.startswith(b"0::")), None)
    if ours is None:
        return "this host has no unified cgroup hierarchy (v2)"
    for root in _MOUNTS:
        directory = root + ours.rstrip("/")
        if os.path.exists(f"{directory}/cgroup.procs"):
            break
    else:
        return "the unified cgroup hierarchy (v2) is not mounted"
    if not os.access(directory, os.W_OK) or not os.access(f"{directory}/cgroup.procs", os.W_OK):
        return f"cgroup {ours} is not delegated to you"
    if os.path.basename(directory) == _SUPERVISOR:
        directory = os.path.dirname(directory)
    return Delegated(directory)
