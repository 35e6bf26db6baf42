"""The default seccomp profile: Docker's, without the holes that rless can close.

It is the allow-list of system calls for a container without a profile of its own. Source: the
profile that Docker ships (github.com/moby/profiles, seccomp/default.json, June 2026), written here
by topic. `default_profile` resolves its conditions for a set of capabilities and returns a plain
OCI `linux.seccomp` object, so that any other OCI runtime takes it too. A change of what it returns
needs a new `DEFAULT_VERSION` in runtime/seccomp/__init__.py (a test tells).

It is stricter than Docker's in five points (docs/seccomp.md describes them for users):

- Comparisons are made on 32 bits where the kernel itself looks at 32 bits only. Docker's
  `socket(family > 40)` also allows family 0x1_0000_0028, which the kernel takes for 40,
  AF_VSOCK (the same mistake as CVE-2019-10063 in Flatpak).
- i386 `socketcall(SYS_SOCKET)` has its address family behind a pointer, which no filter can
  read: any 64-bit program reaches AF_ALG and AF_VSOCK by it (`int $0x80`). It returns ENOSYS;
  the other socketcalls are allowed, and so is i386 `socket`. `socketcall=True` allows it again
  for 32-bit programs of glibc, which have no other way to make a socket.
- ioctl TIOCSTI and TIOCLINUX are denied: they type into the terminal that they are given.
- x32 is not among the architectures (Docker filters it by the same rules). Nobody uses this
  ABI, and half the kernels have it, so its calls return ENOSYS as they do on the other half.
- Netlink's audit protocol is refused, also with CAP_AUDIT_WRITE, which Docker's default has: the
  kernel serves it to the first user namespace only. EINVAL, as from a kernel without it: with
  another error `useradd`, `sudo` and PAM give up.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

EPERM, EIO, EINVAL, ENOSYS = 1, 5, 22, 38

# Allowed whatever the capabilities: the kernel's own checks are enough for these.
_ALWAYS = """
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset
    chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
    getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
    signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
    tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
"""

# Allowed with one capability. The kernel asks for the capability too; the point is to keep the
# code behind these calls out of reach of a bug (a user namespace grants capabilities freely).
_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
        umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": """
        kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace
    """,
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
CAPABILITIES = tuple(_BY_CAPABILITY)

# What a container inside the container needs (`allow_nested_userns`). Not bpf, perf_event_open,
# quotactl and the like: nesting has no use for them.
_NESTED = """
    clone clone3 fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
    pivot_root setdomainname sethostname setns umount umount2 unshare
"""

# Before Linux 4.8 a traced program could swap a call after the filter had seen it.
_TRACING = "process_vm_readv process_vm_writev ptrace"
_TRACING_KERNEL = (4, 8)

# machine of uname(2) -> its architectures, native first, and the calls that only it has.
_MACHINES: dict[str, tuple[tuple[str, ...], str]] = {
    "x86_64": (("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"), "arch_prctl modify_ldt"),
    "aarch64": (
        ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    "riscv64": (("SCMP_ARCH_RISCV64",), "riscv_flush_icache"),
    "ppc64le": (("SCMP_ARCH_PPC64LE",), "swapcontext sync_file_range2"),
    "s390x": (
        ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
        "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ),
    "loongarch64": (("SCMP_ARCH_LOONGARCH64",), ""),
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (NEWTIME is clone3's only).
_CLONE_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# All address families below 64 but AF_ALG (38) and AF_VSOCK (40), as (first, how many): aligned
# powers of two, so that each is one comparison of the high bits. AF_MAX is 46 in Linux 7.1.
_SOCKET_FAMILIES = ((0, 32), (32, 4), (36, 2), (39, 1), (41, 1), (42, 2), (44, 4), (48, 16))
_AF_NETLINK, _NETLINK_AUDIT = 16, 9
_SYS_SOCKET = 1  # socketcall's number of socket (linux/net.h)
_LOW_32 = 0xFFFFFFFF
# PER_LINUX, PER_LINUX32, each also with UNAME26; and "tell me, change nothing".
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def _allow(names: str, *args: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names.split(), "action": "SCMP_ACT_ALLOW"}
    if args:
        rule["args"] = list(args)
    return rule


def _errno(name: str, errno: int, *args: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    if args:
        rule["args"] = list(args)
    return rule


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _deny_values(name: str, index: int, values: tuple[int, ...], errno: int) -> list[Any]:
    """Return rules that allow a call but for some 32-bit values of one argument.

    The last rule says "allow" by a comparison that is always true: libseccomp drops all
    conditions of a call that is also allowed without any, and would allow the rest too. The
    errno differs from the default one because runtimes skip rules that say the same.
    """
    denials = [_errno(name, errno, _masked(index, _LOW_32, value)) for value in values]
    return [*denials, _allow(name, {"index": index, "value": 0, "op": "SCMP_CMP_GE"})]


def default_profile(
    capabilities: Collection[str],
    kernel: tuple[int, int],
    machine: str,
    *,
    allow_nested_userns: bool = False,
    socketcall: bool = False,
) -> dict[str, Any]:
    """Return the default profile as an OCI `linux.seccomp` object.

    Args:
        capabilities: the container's bounding set, as CAP_ names.
        kernel: the running kernel's version, as (6, 18).
        machine: `uname -m`.
        allow_nested_userns: let the container make user namespaces and, inside them, the other
            namespaces and mounts. Opens the kernel's code for mounts, nftables and the like to
            the container: a documented risk, never the default.
        socketcall: let i386 programs make sockets of any family by socketcall(2).

    Source: moby profiles/seccomp/seccomp_linux.go for the meaning of the conditions.
    """
    architectures, own_calls = _MACHINES.get(machine, ((), ""))
    names = [_ALWAYS, own_calls]
    if kernel >= _TRACING_KERNEL:
        names.append(_TRACING)
    names += [calls for name, calls in _BY_CAPABILITY.items() if name in capabilities]
    if allow_nested_userns:
        names.append(_NESTED)
    if socketcall:
        names.append("socketcall")
    # A call in two groups is one rule; dict keeps the order and is quicker than sorting.
    allowed = list(dict.fromkeys(" ".join(names).split()))

    rules: list[dict[str, Any]] = [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]
    rules += _deny_values("ioctl", 1, (_TIOCSTI, _TIOCLINUX), EIO)
    # Families by permissions: libseccomp adds socketcall(SYS_SOCKET) to each rule about socket on
    # i386, and refuses two that disagree.
    rules += [
        _allow("socket", _masked(0, _LOW_32 & -count, first)) for first, count in _SOCKET_FAMILIES
    ]
    audit = _masked(0, _LOW_32, _AF_NETLINK), _masked(2, _LOW_32, _NETLINK_AUDIT)
    rules.append(_errno("socket", EINVAL, *audit))
    if not socketcall:
        rules += _deny_values("socketcall", 0, (_SYS_SOCKET,), ENOSYS)
    rules += [_allow("personality", _equal(0, value)) for value in _PERSONALITIES]
    if not (allow_nested_userns or "CAP_SYS_ADMIN" in capabilities):
        flags = 1 if machine == "s390x" else 0  # s390 has clone's arguments in another order
        rules.append(_allow("clone", _masked(flags, _CLONE_NAMESPACES, 0)))
        # Its flags are behind a pointer. ENOSYS makes every libc use clone.
        rules.append(_errno("clone3", ENOSYS))
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM}
    if architectures:
        profile["architectures"] = list(architectures)
    profile["syscalls"] = rules
    return profile
