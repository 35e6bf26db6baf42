"""Capabilities of the calling thread (capabilities(7), capset(2))."""

from __future__ import annotations

import os

from rootless.errors import SyscallError
from rootless.linux import ffi
from rootless.linux.call import failed, libc
from rootless.linux.prctl import clear_ambient, raise_ambient, read_bounding

# In the kernel's order: the index is the capability's number (linux/capability.h).
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

_VERSION_3 = 0x20080522


_HEADER = ffi.Struct("=Ii")  # struct __user_cap_header_struct: version, pid
_DATA = ffi.Struct("=6I")  # effective, permitted, inheritable: the lower bits, then the upper

_capset = libc.capset


def mask(names: list[str]) -> int:
    """Return the set of these capability names as a bit mask; KeyError for an unknown name."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets of the calling thread, as bit masks.

    Raises:
        SyscallError: EPERM: more permitted than before, or inheritable beyond the bounding set.
    """
    sets = (effective, permitted, inheritable)
    data = _DATA.pack(*(bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in sets))
    if _capset(_HEADER.pack(_VERSION_3, 0), data) == -1:
        raise failed("capset")


def keep_over_exec() -> None:
    """Make all capabilities survive execve; uid 0 keeps them by itself.

    Where it runs: in a user namespace of the caller's, with all capabilities there.
    """
    if os.geteuid() == 0:
        return
    last = last_capability()
    every = (1 << (last + 1)) - 1
    set_capabilities(every, every, every)
    for number in range(last + 1):
        raise_ambient(number)


class Lent:
    """Within its `with`, what the caller executes has these capabilities; without it, none.

    For a program that begins where no id is mapped yet, so that nobody is root, and needs them
    only to give up all. uid 0 gives all of its own in any case.

    Where it runs: as `keep_over_exec`.
    """

    __slots__ = ("_every", "_rights")

    def __init__(self, rights: int) -> None:
        """Take a bit mask (`mask`)."""
        self._rights = rights
        self._every = (1 << (last_capability() + 1)) - 1

    def __enter__(self) -> None:
        set_capabilities(self._every, self._every, self._rights)
        for number in range(self._rights.bit_length()):
            if self._rights >> number & 1:
                raise_ambient(number)

    def __exit__(self, *_: object) -> None:
        clear_ambient()
        set_capabilities(self._every, self._every, 0)


_last = -1


def last_capability() -> int:
    """Return the highest capability number of this kernel, without /proc."""
    global _last
    if _last < 0:
        _last = _find_last()
    return _last


def _find_last() -> int:
    number = len(NAMES) - 1
    while True:
        try:
            read_bounding(number + 1)
        except SyscallError:
            break
        number += 1
    while number > 0:
        try:
            read_bounding(number)
            break
        except SyscallError:
            number -= 1
    return number
