"""Scheduling attributes of a process: execution domain, scheduling, I/O priority, memory policy."""

from __future__ import annotations

import os

from rootless.linux import ffi
from rootless.linux.call import syscall

_NUMBERS = {
    "x86_64": (135, 238, 251, 314),
    "aarch64": (92, 237, 30, 274),
    "riscv64": (92, 237, 30, 274),  # both have asm-generic/unistd.h
}.get(os.uname().machine, (-1, -1, -1, -1))
_SYS_PERSONALITY, _SYS_SET_MEMPOLICY, _SYS_IOPRIO_SET, _SYS_SCHED_SETATTR = _NUMBERS
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13


# struct sched_attr, version 1 (linux/sched/types.h): size, policy, flags, nice, priority, runtime,
# deadline, period, and 0 for util_min and util_max
_SCHED_ATTR = ffi.Struct("=IIQiIQQQ8x")


def set_personality(domain: int) -> None:
    """Set the execution domain of the caller and of what it executes (personality(2))."""
    syscall(f"personality({domain:#x})", _SYS_PERSONALITY, domain)


def set_io_priority(kind: int, priority: int) -> None:
    """Set the caller's I/O class and priority (ioprio_set(2)); EPERM: real time needs root."""
    value = kind << _IOPRIO_CLASS_SHIFT | priority
    syscall(f"ioprio_set({kind}, {priority})", _SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value)


def set_scheduler(
    policy: int,
    flags: int = 0,
    *,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """Set the caller's scheduling policy (sched_setattr(2)); times are in nanoseconds.

    Raises:
        SyscallError: EPERM: real time, or a nice value below the present one, needs
            CAP_SYS_NICE on the host; EINVAL: the policy has no such priority.
    """
    priority &= 0xFFFFFFFF  # of any size in a config: the kernel is the judge of it
    attr = _SCHED_ATTR.pack(
        _SCHED_ATTR.size, policy, flags, nice, priority, runtime, deadline, period
    )
    syscall(f"sched_setattr({policy})", _SYS_SCHED_SETATTR, 0, attr, 0)


def set_memory_policy(mode: int, nodes: int) -> None:
    """Set the caller's NUMA policy (set_mempolicy(2)); `nodes` is a bit mask of them."""
    words = [nodes >> shift & 0xFFFFFFFFFFFFFFFF for shift in range(0, 1024, 64)]
    mask = (ffi.c_ulong * len(words))(*words)
    size = 64 * len(words) + 1 if nodes else 0
    syscall(f"set_mempolicy({mode:#x})", _SYS_SET_MEMPOLICY, mode, mask if nodes else None, size)
