"""Load a seccomp filter, with libc only.

The other half, building a filter, is linux/libseccomp.py. `load_filter` runs in the container's
init as the last step before execve. It needs only what this module bound at import time: no
library, no file, no import.
Source: seccomp(2), include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import errno

from rootless.errors import RlessError
from rootless.linux import ffi
from rootless.linux.call import SYS_SECCOMP, failed, libc

FLAG_TSYNC = 1
FLAG_LOG = 2
FLAG_SPEC_ALLOW = 4
FLAG_NEW_LISTENER = 8
FLAG_WAIT_KILLABLE_RECV = 32

_SET_MODE_FILTER = 1
_PR_SET_SECCOMP = 22
_PR_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8  # struct sock_filter
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_PROGRAM = ffi.Struct("@HP")  # struct sock_fprog: length, pointer (with its padding)

_syscall = libc.syscall
_prctl = libc.prctl


def check_program(bpf: bytes) -> None:
    """Refuse bytes that cannot be a classic BPF program: wrong length, empty, too long.

    The kernel verifies the program itself (jumps, offsets, a return on each path).
    """
    count, rest = divmod(len(bpf), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _MAX_INSTRUCTIONS:
        raise RlessError(f"seccomp filter is not a BPF program: it has {len(bpf)} bytes")


def load_filter(bpf: bytes, flags: int = 0) -> int:
    """Install a filter on the calling thread for good, and on all that it executes or forks.

    Order: the caller needs no_new_privs, or CAP_SYS_ADMIN in its own user namespace in its
    effective set. With no_new_privs this is the very last step before execve. Without it, it
    comes while that capability is still effective, so before the capability sets are written;
    then capset, setresuid and the rest run under the filter, and one that denies them stops
    the start (closed, not open). Filters add up: the strictest answer of all wins.

    Args:
        bpf: an array of `struct sock_filter`, native byte order.
        flags: `FLAG_*`; what the kernel does not know is refused with EINVAL.

    Returns:
        The listener's descriptor with FLAG_NEW_LISTENER, else 0.

    Raises:
        SyscallError: EACCES: neither no_new_privs nor CAP_SYS_ADMIN; EINVAL: not a valid
            program or flag; ENOMEM: more than 32,768 instructions in all filters together.

    Where: in the container's init, after the import barrier. Source: seccomp(2).
    """
    check_program(bpf)
    buffer = ffi.create_string_buffer(bpf, len(bpf))
    program = _PROGRAM.pack(len(bpf) // _INSTRUCTION_BYTES, ffi.addressof(buffer))
    if SYS_SECCOMP >= 0:
        result = _syscall(
            ffi.c_long(SYS_SECCOMP),
            ffi.c_ulong(_SET_MODE_FILTER),
            ffi.c_ulong(flags),
            program,
        )
        if result >= 0:
            return int(result)
        if ffi.get_errno() != errno.ENOSYS:
            raise failed("seccomp(SET_MODE_FILTER)")
    # The older call has no flags. SPEC_ALLOW only saves time, so it may be dropped; LOG not.
    if flags & ~FLAG_SPEC_ALLOW:
        raise RlessError(f"this kernel takes no seccomp flags ({flags:#x} wanted)")
    if _prctl(_PR_SET_SECCOMP, ffi.c_ulong(_PR_MODE_FILTER), program) != 0:
        raise failed("prctl(PR_SET_SECCOMP)")
    return 0
