"""python inside.py [--join PID] COMMAND...: run it as root of a user namespace of its own.

It has mount and cgroup namespaces, and a cgroup2 at /sys/fs/cgroup; --join: those of PID.

All subordinate ids are mapped. crun and runc want to be root and to see cgroup v2 alone at
/sys/fs/cgroup; on a host with both versions of cgroups they run nowhere else.
"""

from __future__ import annotations

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from rootless.linux import idmap, mount, ns, process  # noqa: E402
from tests.lib.engine_namespace import make_map  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(command: list[str]) -> int:
    """Run the command; return its exit code."""

    def body() -> NoReturn:
        process.become_root()
        mount.mount("tmpfs", "/sys/fs/cgroup", "tmpfs")  # EBUSY for a cgroup2 upon a cgroup2
        mount.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        os.execvp(command[0], command)

    pid = idmap.spawn(make_map("host-root"), ns.CLONE_NEWNS | ns.CLONE_NEWCGROUP, body)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def join(pid: str, command: list[str]) -> NoReturn:
    """Become the command, in the namespaces of a process that `main` has started."""
    fds = [
        (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), flag)
        for name, flag in (
            ("user", ns.CLONE_NEWUSER),
            ("mnt", ns.CLONE_NEWNS),
            ("cgroup", ns.CLONE_NEWCGROUP),
        )
    ]
    directory = os.getcwd()
    for fd, flag in fds:
        ns.setns(fd, flag)
        os.close(fd)
    os.chdir(directory)  # joining a mount namespace leads to its root
    process.become_root()
    os.execvp(command[0], command)


if __name__ == "__main__":
    if sys.argv[1] == "--join":
        join(sys.argv[2], sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
