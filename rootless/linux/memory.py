"""Files in memory: mmap(2), without the module `mmap`, which keeps the descriptor open."""

from __future__ import annotations

from rootless.linux import ffi
from rootless.linux.call import failed, libc

PROT_READ = 1
MAP_PRIVATE = 2
_MAP_FAILED = 2**64 - 1

_mmap = libc.mmap
_mmap.restype = ffi.c_ulong


def map_file(fd: int, size: int) -> memoryview:
    """Return the first `size` bytes of a file, to read; they stay mapped until the process ends.

    A page costs only if it is read, and sixteen come by one fault. Whoever shortens the file
    meanwhile ends the process by SIGBUS: only for files that are replaced, never rewritten.

    Raises:
        SyscallError: EINVAL (the size is 0), EACCES, ENODEV.

    Source: mmap(2).
    """
    start: int = _mmap(None, ffi.c_size_t(size), PROT_READ, MAP_PRIVATE, fd, ffi.c_long(0))
    if start == _MAP_FAILED:
        raise failed(f"mmap(fd {fd}, {size})")
    return memoryview((ffi.c_char * size).from_address(start)).toreadonly()
