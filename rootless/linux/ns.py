"""Namespaces: make, join, and start a process in new ones (namespaces(7), clone(2))."""

from __future__ import annotations

import os

from rootless.linux import ffi
from rootless.linux.call import SYS_CLONE, SYS_CLONE3, failed, libc, syscall

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_FILES = 0x00000400
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

_unshare = libc.unshare
_setns = libc.setns


# struct clone_args, version 2 (linux/sched.h, Linux 5.7): flags, pidfd, child_tid, parent_tid,
# exit_signal, stack, stack_size, tls, set_tid, set_tid_size (0 where not given), cgroup
_CLONE_ARGS = ffi.Struct("=QQ16xQ40xQ")


def unshare(flags: int) -> None:
    """Move the caller into new namespaces.

    Raises:
        SyscallError: EPERM: forbidden here (sysctl, LSM, seccomp), or a chroot for
            CLONE_NEWUSER; EINVAL: CLONE_NEWUSER with a second thread; ENOSPC: the limit in
            /proc/sys/user/max_*_namespaces; EUSERS on old kernels.

    Where it runs: anywhere; other than CLONE_NEWUSER needs CAP_SYS_ADMIN in the user namespace.
    Source: unshare(2).
    """
    if _unshare(flags) == -1:
        raise failed(f"unshare({flags:#x})")


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace of a /proc/PID/ns descriptor, or several of a pidfd (Linux 5.8).

    Raises:
        SyscallError: EINVAL: not that type, or the user namespace is the caller's own already;
            EPERM: no CAP_SYS_ADMIN there.

    Source: setns(2).
    """
    if _setns(fd, flags) == -1:
        raise failed(f"setns({fd}, {flags:#x})")


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork the caller into new namespaces; return (pid, pidfd), in the child (0, -1).

    One call gives the child its namespaces, a pidfd that cannot be confused with another
    process, and its cgroup. os.fork() with unshare() before it would need a third process for
    the pid namespace. What os.fork() would do beside the system call (locks and threads of the
    interpreter) has nothing to do in a process with one thread, and there must be only one:
    the kernel demands the same for CLONE_NEWUSER.

    With CLONE_PARENT the new process is a child of the caller's parent, as the caller is.

    Raises:
        SyscallError: as unshare(2); EAGAIN: RLIMIT_NPROC or pids.max; EBUSY or EOPNOTSUPP:
            the cgroup cannot take processes.

    Source: clone3(2), Linux 5.3; CLONE_INTO_CGROUP 5.7.
    """
    pidfd = ffi.c_int(-1)
    exit_signal = 0 if flags & CLONE_PARENT else _SIGCHLD  # then it is the caller's own
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0)
    args = _CLONE_ARGS.pack(flags, ffi.addressof(pidfd), exit_signal, max(cgroup_fd, 0))
    pid = syscall("clone3", SYS_CLONE3, args, len(args))
    return (pid, pidfd.value) if pid else (0, -1)


def fork_into(cgroup: str) -> int:
    """Fork a child in a control group; return its pid, in the child 0.

    A process that moves waits for an RCU grace period, 4 to 20 ms; one that is born in the group
    waits for nothing. Both need the same rights.

    Raises:
        OSError, SyscallError: it cannot be born there.
    """
    group_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid, pidfd = clone3(0, group_fd)
    finally:
        os.close(group_fd)
    if pidfd >= 0:
        os.close(pidfd)
    return pid


def clone_sibling() -> int:
    """Fork a child of the caller's parent; return its pid, in the child 0.

    By clone(2): a seccomp filter that is loaded already may know nothing of clone3.

    Raises:
        SyscallError: EAGAIN: RLIMIT_NPROC or pids.max; EPERM: the filter.

    Source: clone(2), CLONE_PARENT.
    """
    return syscall("clone", SYS_CLONE, CLONE_PARENT | _SIGCHLD, 0, 0, 0, 0)


def clone_sharing_fds() -> int:
    """Fork a child that has the caller's descriptors, those of later, too; return its pid or 0.

    Source: clone(2), CLONE_FILES.
    """
    return syscall("clone", SYS_CLONE, _CLONE_FILES | _SIGCHLD, 0, 0, 0, 0)
