"""Build a seccomp filter: libseccomp by ctypes.

libseccomp provides the numbers of system calls on each architecture, the equivalents of the
multiplexed ones (socketcall, ipc) on i386, and the program itself. It is used on the host side,
only if a filter is not in the cache (runtime/seccomp); the library is loaded at first use, by
soname (find_library would cost 10 ms). Loading the program is linux/seccomp.py.
Source: libseccomp's seccomp.h and manual pages, versions 2.4 to 2.6.
"""

from __future__ import annotations

import ctypes
import errno
import os

from rootless.errors import RlessError
from rootless.linux.call import libc
from rootless.linux.seccomp import check_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

SONAME = "libseccomp.so.2"

ACT_KILL_PROCESS = 0x80000000
ACT_KILL_THREAD = 0x00000000
ACT_TRAP = 0x00030000
ACT_ERRNO = 0x00050000
ACT_TRACE = 0x7FF00000
ACT_NOTIFY = 0x7FC00000
ACT_LOG = 0x7FFC0000
ACT_ALLOW = 0x7FFF0000

CMP_NE, CMP_LT, CMP_LE, CMP_EQ, CMP_GE, CMP_GT, CMP_MASKED_EQ = range(1, 8)

# AUDIT_ARCH_*, as seccomp_data.arch has them, but x32: libseccomp invented a token of its own
# for it because the kernel reports x32 calls as x86_64 with bit 30 set in the number.
ARCH_X86 = 0x40000003
ARCH_X86_64 = 0xC000003E
ARCH_X32 = 0x4000003E
ARCH_ARM = 0x40000028
ARCH_AARCH64 = 0xC00000B7
X32_BIT = 0x40000000

_ATTR_BADARCH = 2
_ATTR_NNP = 3
_ATTR_OPTIMIZE = 8
_UNKNOWN_SYSCALL = -1  # __NR_SCMP_ERROR; other negative numbers mean "elsewhere, not here"
# The highest system call number that is asked for when a table is read: 471 in Linux 7.1.
_TABLE_END = 600


class _Comparison(ctypes.Structure):
    """Mirror `struct scmp_arg_cmp`."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """Return libseccomp with its prototypes set.

    Raises:
        RlessError: it is not installed. There is no way on without it: a container that asked
            for a filter is never started without one.
    """
    global _library
    if _library is None:
        try:
            lib = ctypes.CDLL(SONAME, use_errno=True)
        except OSError:
            raise RlessError(
                f"seccomp filter cannot be compiled: {SONAME} is not installed",
                "install the package libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora, SUSE)",
            ) from None
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = [ctypes.c_uint32]
        lib.seccomp_release.restype = None
        lib.seccomp_release.argtypes = [ctypes.c_void_p]
        lib.seccomp_arch_native.restype = ctypes.c_uint32
        for name in ("seccomp_arch_add", "seccomp_arch_remove"):
            getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        ]
        lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        lib.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
        lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
        lib.seccomp_version.restype = ctypes.POINTER(_Version)
        _library = lib
    return _library


def version() -> tuple[int, int, int]:
    """Return libseccomp's version."""
    found = library().seccomp_version().contents
    return found.major, found.minor, found.micro


def native_arch() -> int:
    """Return libseccomp's token of the architecture that this process runs on."""
    return int(library().seccomp_arch_native())


def resolve(name: str) -> int | None:
    """Return the number that `Builder.rule` takes for a system call; None: unknown name.

    It is the native number, or a negative pseudo number for a call that only another
    architecture has (`chown32`).
    """
    if not name.isascii() or "\0" in name:  # C would read "read\0er" as "read"
        return None
    number = int(library().seccomp_syscall_resolve_name(name.encode()))
    return None if number == _UNKNOWN_SYSCALL else number


def table(arch: int) -> dict[str, int]:
    """Return name -> number of every system call that libseccomp knows on one architecture.

    Asked number by number: by name, libseccomp answers with pseudo numbers for the calls
    that i386 also has inside socketcall and ipc, and hides the real ones.
    """
    ask = library().seccomp_syscall_resolve_num_arch
    free = libc.free
    free.argtypes = [ctypes.c_void_p]
    free.restype = None
    base = X32_BIT if arch == ARCH_X32 else 0
    found: dict[str, int] = {}
    for number in range(base, base + _TABLE_END):
        pointer = ask(arch, number)
        if pointer:
            found[ctypes.string_at(pointer).decode()] = number
            free(pointer)
    return found


class Builder:
    """Collect rules and turn them into a BPF program; use it as a context manager."""

    __slots__ = ("_context", "_lib")

    def __init__(self, default_action: int) -> None:
        """Start a filter for the native architecture that answers `default_action`."""
        self._lib = library()
        self._context: int | None = self._lib.seccomp_init(default_action)
        if not self._context:
            raise RlessError(f"libseccomp refuses the default action {default_action:#010x}")
        # The runtime sets no_new_privs itself, or not at all: it is not the filter's business.
        self._check("no_new_privs off", self._attribute(_ATTR_NNP, 0))
        # A call by an architecture that the filter does not name must end the process, not
        # one thread of it: a program half alive is harder to understand, and to trust.
        self._check("bad architecture action", self._attribute(_ATTR_BADARCH, ACT_KILL_PROCESS))
        # A binary tree: a few comparisons a call in place of hundreds. 2.5 and later; the
        # attribute is only speed, so an older library may refuse it.
        self._attribute(_ATTR_OPTIMIZE, 2)

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._context:
            self._lib.seccomp_release(self._context)
            self._context = None

    def _attribute(self, attribute: int, value: int) -> int:
        return int(self._lib.seccomp_attr_set(self._context, attribute, value))

    @staticmethod
    def _check(what: str, result: int) -> None:
        if result < 0:
            raise RlessError(f"libseccomp: {what}: {os.strerror(-result)}")

    def add_arch(self, arch: int) -> bool:
        """Filter this architecture's calls too; False: libseccomp cannot combine or know it."""
        result = self._lib.seccomp_arch_add(self._context, arch)
        return result in (0, -errno.EEXIST)

    def remove_arch(self, arch: int) -> None:
        """Leave an architecture out of the filter: its calls are then killed."""
        self._check("remove architecture", self._lib.seccomp_arch_remove(self._context, arch))

    def rule(
        self, action: int, number: int, conditions: list[tuple[int, int, int, int]], name: str
    ) -> None:
        """Add one rule for all architectures of the filter.

        Args:
            action: an `ACT_*` value that is not the default action.
            number: from `resolve`.
            conditions: (argument index, CMP_*, value, second value), all of which must hold;
                for CMP_MASKED_EQ the value is the mask. At most one a argument.
            name: the call's name, for the error.
        """
        array = (_Comparison * max(1, len(conditions)))(*(_Comparison(*c) for c in conditions))
        result = self._lib.seccomp_rule_add_array(
            self._context, action, number, len(conditions), array
        )
        self._check(f"rule for {name}", result)

    def export(self) -> bytes:
        """Return the program.

        Through a memfd: seccomp_export_bpf_mem exists from 2.6 on only, and one path that
        every version takes is better than two.
        """
        memfd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check("export", self._lib.seccomp_export_bpf(self._context, memfd))
            size = os.fstat(memfd).st_size
            program = os.pread(memfd, size, 0)
        finally:
            os.close(memfd)
        check_program(program)
        return program


def library_file() -> str | None:
    """Return the file that libseccomp was loaded from, or None if that cannot be told."""
    library()
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                path = line.rstrip("\n").partition("/")[2]
                if path.rpartition("/")[2].startswith("libseccomp.so"):
                    return "/" + path
    except OSError:
        pass
    return None
