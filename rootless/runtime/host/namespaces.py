"""Step 2, namespaces: which of a config's are new, which are joined, which stay the caller's.

The kernel forces the order. A new user namespace must exist before the others, so that it owns
them. A pid namespace applies to children, so it is joined before init is cloned. The cgroup
namespace takes its root from the cgroup that the process is in, so it is made last.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import IdMapping, Spec

FLAGS = {
    "user": ns.CLONE_NEWUSER,
    "mount": ns.CLONE_NEWNS,
    "pid": ns.CLONE_NEWPID,
    "network": ns.CLONE_NEWNET,
    "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS,
    "cgroup": ns.CLONE_NEWCGROUP,
    "time": ns.CLONE_NEWTIME,
}
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
# The names under /proc/PID/ns.
FILES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


class Namespaces:
    """The namespaces of one config; those given by a path are open.

    Attributes:
        new: CLONE_NEW* flags for clone3; CLONE_NEWCGROUP and CLONE_NEWTIME are not among them.
        joined: (flag, descriptor, path) for init to join, in this order.
        new_cgroup: make a cgroup namespace once init is in its cgroup.
        new_time: make a time namespace, and set its clocks.
        user_fd: the user namespace that is joined before all others; -1: none.
        shares_pids: the processes of another container will see init.
        idmap: the maps of a new user namespace, None without one.
    """

    __slots__ = (
        "idmap",
        "joined",
        "new",
        "new_cgroup",
        "new_time",
        "pid_fd",
        "shares_pids",
        "user_fd",
    )

    def __init__(self, spec: Spec) -> None:
        """Sort the namespaces of `spec.linux.namespaces`.

        Raises:
            RlessError: an unknown type, a path that is no such namespace, a user namespace
                without mappings.
        """
        self.new = 0
        self.joined: list[tuple[int, int, str]] = []
        self.new_cgroup = self.new_time = False
        self.pid_fd = self.user_fd = -1
        self.shares_pids = False
        linux = spec.get("linux", {})
        for namespace in linux.get("namespaces", ()):
            kind, path = namespace["type"], namespace.get("path")
            if kind not in FILES:
                raise RlessError(f"linux.namespaces: type {kind!r} is not supported")
            if path:
                fd = _open(kind, path)
                if kind == "pid":
                    self.pid_fd = fd
                    self.shares_pids = True
                elif kind == "user":
                    if _is_ours(fd):
                        os.close(fd)  # as if it were not named: the kernel lets nobody join it
                    else:
                        self.user_fd = fd
                else:
                    self.joined.append((FLAGS[kind], fd, path))
            elif kind == "cgroup":
                self.new_cgroup = True
            elif kind == "time":
                self.new_time = True
            else:
                self.new |= FLAGS[kind]
        if not self.new & ns.CLONE_NEWNS:
            raise RlessError("linux.namespaces: a new mount namespace is needed")
        self.idmap = None
        if self.new & ns.CLONE_NEWUSER:
            uids, gids = linux.get("uidMappings", []), linux.get("gidMappings", [])
            if not uids or not gids:
                raise RlessError("linux.uidMappings and linux.gidMappings: missing for type user")
            from rootless.linux.idmap import IdMap

            self.idmap = IdMap(_extents(uids), _extents(gids), "config")

    def join_user(self) -> None:
        """Join the user namespace that is given by path: all that is made later belongs to it."""
        try:
            ns.setns(self.user_fd, ns.CLONE_NEWUSER)
        except SyscallError as error:
            raise error.within("cannot join the user namespace") from error
        os.close(self.user_fd)
        self.user_fd = -1

    def join_pid(self) -> None:
        """Make later children of the caller members of the joined pid namespace."""
        if self.pid_fd >= 0:
            ns.setns(self.pid_fd, ns.CLONE_NEWPID)
            os.close(self.pid_fd)
            self.pid_fd = -1

    def join(self) -> None:
        """Join the namespaces that are given by path, and close their descriptors.

        In init, or in the parent before it clones init into a new user namespace.
        """
        for flag, fd, path in self.joined:
            try:
                ns.setns(fd, flag)
            except SyscallError as error:
                raise RlessError(f"cannot join {path}: {os.strerror(error.errno)}") from error
        self.close()

    def close(self) -> None:
        """Close the descriptors of the joined namespaces."""
        for _, fd, _ in self.joined:
            os.close(fd)
        if self.pid_fd >= 0:
            os.close(self.pid_fd)
        if self.user_fd >= 0:
            os.close(self.user_fd)
        self.joined, self.pid_fd, self.user_fd = [], -1, -1


def _extents(mappings: list[IdMapping]) -> list[tuple[int, int, int]]:
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in mappings]


def _is_ours(user_fd: int) -> bool:
    theirs, ours = os.fstat(user_fd), os.stat("/proc/self/ns/user")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _open(kind: str, path: str) -> int:
    if kind == "mount":
        # What is mounted there, and where, is not ours to know: the root would be made in it.
        raise RlessError("linux.namespaces: type mount by path is not supported")
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise RlessError(f"cannot join the {kind} namespace {path}: {error.strerror}") from error
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != FLAGS[kind]:
        os.close(fd)
        raise RlessError(f"linux.namespaces: {path} is no {kind} namespace")
    return fd
