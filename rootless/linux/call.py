"""The calls of all other modules here: libc by its soname, errno turned into an error.

`ctypes.util.find_library` takes 10 ms, because it runs programs; a soname takes no time. All
bindings are made at import time, because code that runs after the root has changed can import
nothing.
"""

from __future__ import annotations

import os

from rootless.errors import SyscallError
from rootless.linux import ffi

KERNEL_FLOOR = (5, 12)  # mount_setattr; overlayfs in a user namespace came with 5.11
KERNELS = "Debian 12, Ubuntu 22.04, Fedora 34, RHEL 9, SLES or openSUSE Leap 15.4"
# What a container that rless runs in has to be started with, in the words of Docker and Podman.
OUTER = (
    "start the outer container with --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
_ENOSYS = 38  # errno is one more module to load

# PyDLL keeps the interpreter lock: the calls are short, and clone3 must not switch threads.
# musl names its libc otherwise; the process itself always has one.
try:
    libc = ffi.PyDLL("libc.so.6", use_errno=True)
except OSError:
    libc = ffi.PyDLL(None, use_errno=True)

libc.syscall.restype = ffi.c_long
# One for each number of arguments. A type that takes ints as whole registers, bytes, None and
# objects of ctypes as they are: to wrap each int took a quarter of a call.
_syscalls = [libc["syscall"] for _ in range(7)]
for _count, _function in enumerate(_syscalls, 1):
    _function.restype = ffi.c_long
    _function.argtypes = [ffi.c_void_p] * _count

# All processors share the numbers from pidfd_send_signal (424) on.
_MACHINE = os.uname().machine
_GENERIC = {  # asm-generic/unistd.h
    "clone": 220,
    "pivot_root": 41,
    "gettid": 178,
    "keyctl": 219,
    "seccomp": 277,
    "getcwd": 17,
    "execveat": 281,
}
_LEGACY = {
    "x86_64": {
        "clone": 56,
        "pivot_root": 155,
        "gettid": 186,
        "keyctl": 250,
        "seccomp": 317,
        "getcwd": 79,
        "execveat": 322,
    },
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}.get(_MACHINE, {})
SYS_CLONE = _LEGACY.get("clone", -1)
SYS_PIVOT_ROOT = _LEGACY.get("pivot_root", -1)
SYS_KEYCTL = _LEGACY.get("keyctl", -1)
SYS_SECCOMP = _LEGACY.get("seccomp", -1)
SYS_GETCWD = _LEGACY.get("getcwd", -1)
SYS_EXECVEAT = _LEGACY.get("execveat", -1)
SYS_PIDFD_SEND_SIGNAL = 424
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_PIDFD_OPEN = 434
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000


def parse_release(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release as uname(2) gives it; (0, 0): not understood."""
    numbers = []
    for field in release.split(".")[:2]:
        digits = ""
        for char in field:
            if not (char.isascii() and char.isdigit()):  # isdigit alone takes "²" too
                break
            digits += char
        if not digits:
            return (0, 0)
        numbers.append(int(digits))
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def kernel_hint(release: str) -> str:
    """Return what to do where a system call is missing (ENOSYS), on a kernel of this release."""
    if parse_release(release) >= KERNEL_FLOOR:
        return (
            f"Linux {release} has this call, so a seccomp filter around this process hides it: "
            f"in a container, {OUTER}"
        )
    floor = ".".join(map(str, KERNEL_FLOOR))
    return f"this is Linux {release}, and rless needs {floor} or later, as in {KERNELS}"


def failed(call: str) -> SyscallError:
    """Return the error of the libc call that has just failed, read from errno."""
    return refused(call, ffi.get_errno())


def refused(call: str, number: int) -> SyscallError:
    """Return the error of a call by its errno; of one that is missing, what to do."""
    return SyscallError(
        call, number, kernel_hint(os.uname().release) if number == _ENOSYS else None
    )


def syscall(name: str, number: int, *args: object) -> int:
    """Make one raw system call.

    Args:
        name: the call as an error shall show it, as `openat2(/etc)`.
        number: the architecture's number.
        args: six at most: ints (passed as longs), bytes (as pointers), arrays of ctypes, None.

    Raises:
        SyscallError: the kernel returned an error.

    Source: syscall(2).
    """
    result: int = _syscalls[len(args)](number, *args)
    if result == -1:
        raise failed(name)
    return result


def encode(path: str | bytes | None) -> bytes | None:
    """Return a path as the kernel wants it: bytes, with Python's surrogates undone."""
    return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path


def shown(path: str | bytes | None) -> str:
    """Return a path as an error shall show it."""
    if path is None:
        return "none"
    return path.decode("utf-8", "replace") if isinstance(path, bytes) else path
