"""Seccomp filters of containers: out of the cache in a fraction of a millisecond.

Compiling a profile takes some 20 ms, and loading libseccomp alone half a millisecond. So a program
is compiled once and kept; a start reads one file of 5 KB. This module is on the hot path and
imports neither the compiler nor the profile readers until they are needed.

There are three ways in:

- `default_filter`: the default profile, by a file name made of what it depends on. No profile
  is built, no JSON is made, nothing is hashed but the file's own checksum.
- `cached_filter`: any OCI `linux.seccomp` object, by a hash of its content. The runtime calls this
  for the object in config.json.
- `compile_filter`, `load_profile_file`, `default_profile`: without the cache.

A file of the cache has a magic, a checksum, a stamp of the libseccomp that compiled it, and the
program. The checksum covers the key too, so a file under a wrong name is not used. A file that is
damaged, not ours or open to others is made again. So is every file after an upgrade of libseccomp,
which changes the stamp (path, size, mtime).

All of this runs on the host side, before the root changes. Only
`rootless.linux.seccomp.load_filter` runs in the container.
"""

from __future__ import annotations

import os
import stat

try:
    # The C module itself: hashlib takes 3 ms, because it loads OpenSSL.
    from _blake2 import blake2b
except ImportError:  # a Python built without it
    from hashlib import blake2b

from rootless import jsontext
from rootless.errors import RlessError
from rootless.log import debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

# What compile_filter makes of the same object: raise it with every change of its output.
COMPILER_VERSION = 1
# What default.default_profile returns: likewise. Here, because importing the profile's
# lists takes longer than all the rest of `default_filter`.
DEFAULT_VERSION = 2

_MAGIC = b"rless-bpf-1\n"
_DIGEST_BYTES = 32
_MAX_FILE = 64 << 10
# Those that change the default profile (keys of seccomp_default.CAPABILITIES; a test compares).
_CAPABILITY_BITS = {
    "CAP_DAC_READ_SEARCH": 1 << 0,
    "CAP_SYS_ADMIN": 1 << 1,
    "CAP_SYS_BOOT": 1 << 2,
    "CAP_SYS_CHROOT": 1 << 3,
    "CAP_SYS_MODULE": 1 << 4,
    "CAP_SYS_PACCT": 1 << 5,
    "CAP_SYS_PTRACE": 1 << 6,
    "CAP_SYS_RAWIO": 1 << 7,
    "CAP_SYS_TIME": 1 << 8,
    "CAP_SYS_TTY_CONFIG": 1 << 9,
    "CAP_SYS_NICE": 1 << 10,
    "CAP_SYSLOG": 1 << 11,
    "CAP_BPF": 1 << 12,
    "CAP_PERFMON": 1 << 13,
}


def default_profile(
    capabilities: Collection[str],
    kernel: tuple[int, int] | None = None,
    *,
    allow_nested_userns: bool = False,
    socketcall: bool = False,
) -> dict[str, Any]:
    """Return the default profile for this host as an OCI `linux.seccomp` object.

    Args: see `default.default_profile`; `kernel` None means the running one.
    """
    from rootless.runtime.seccomp import default

    uname = os.uname()
    return default.default_profile(
        capabilities,
        kernel or _kernel(uname.release),
        uname.machine,
        allow_nested_userns=allow_nested_userns,
        socketcall=socketcall,
    )


def default_filter(
    capabilities: Collection[str],
    cache_dir: str,
    allow_nested_userns: bool = False,
    socketcall: bool = False,
) -> bytes:
    """Return the BPF program of `default_profile` for a bounding set of capabilities.

    Raises:
        RlessError: it is not in the cache and cannot be compiled.
    """
    bits = 0
    for name in capabilities:
        bits |= _CAPABILITY_BITS.get(name, 0)
    uname = os.uname()
    old = _kernel(uname.release) < (4, 8)
    key = (
        f"default-{DEFAULT_VERSION}.{COMPILER_VERSION}-{uname.machine}-{bits:04x}"
        f"{'-nested' * allow_nested_userns}{'-socketcall' * socketcall}{'-old' * old}"
    )

    def profile() -> dict[str, Any]:
        return default_profile(
            capabilities, allow_nested_userns=allow_nested_userns, socketcall=socketcall
        )

    return _cached(key, cache_dir, profile)


def cached_filter(seccomp: Mapping[str, Any], cache_dir: str) -> bytes:
    """Return the BPF program of an OCI `linux.seccomp` object, compiled once a content.

    Raises:
        RlessError: it is not in the cache and cannot be compiled.
    """
    # Sorted: the same profile with its keys in another order is the same profile.
    text = jsontext.dumps(seccomp, sort_keys=True)
    digest = blake2b(text.encode(), digest_size=20).hexdigest()
    key = f"profile-{COMPILER_VERSION}-{os.uname().machine}-{digest}"
    return _cached(key, cache_dir, lambda: seccomp)


def compile_filter(seccomp: Mapping[str, Any]) -> bytes:
    """Return the BPF program of an OCI `linux.seccomp` object; see seccomp_compile."""
    from rootless.runtime.seccomp import compiler

    return compiler.compile_filter(seccomp)


def load_flags(seccomp: Mapping[str, Any]) -> int:
    """Return the flags that an OCI `linux.seccomp` object wants for `load_filter`.

    Raises:
        RlessError: an unknown flag.
    """
    if "flags" not in seccomp:
        return 4  # FLAG_SPEC_ALLOW; the usual case must not load the compiler
    from rootless.runtime.seccomp import compiler

    return compiler.load_flags(seccomp)


def load_profile_file(path: str, capabilities: Collection[str] = ()) -> dict[str, Any]:
    """Return the profile of `--security-opt seccomp=FILE`; see seccomp_profile."""
    from rootless.runtime.seccomp import profile as seccomp_profile

    return seccomp_profile.load_profile_file(path, capabilities)


def has_killable_notifications() -> bool:
    """Tell whether only a deadly signal interrupts a call of which a filter notifies."""
    return _kernel(os.uname().release) >= (5, 19)


def _kernel(release: str) -> tuple[int, int]:
    """Return (6, 18) for "6.18.44-generic"; an unreadable one counts as new."""
    try:
        major, minor = release.split(".")[:2]
        return int(major), int(minor.partition("-")[0])
    except ValueError:
        return 5, 0


# --- the cache ---------------------------------------------------------------------------


def _cached(key: str, cache_dir: str, profile: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the program under a key, compiled from a profile if there is no good one."""
    path = f"{cache_dir}/{key}.bpf"
    kept, fresh = _read(path, key)
    if kept is not None and fresh:
        return kept
    try:
        bpf = compile_filter(profile())
    except RlessError:
        if kept is None:
            raise
        # libseccomp was removed or replaced by one that does not work. What the earlier one
        # made of the same profile is still right.
        return kept
    try:
        _write(cache_dir, path, key, bpf)
    except OSError as error:
        debug(f"seccomp: the filter is not kept: {path}: {error.strerror}")
    return bpf


def _read(path: str, key: str) -> tuple[bytes | None, bool]:
    """Return the program in a file of the cache, and whether the same libseccomp is there."""
    try:
        # O_NONBLOCK: if a FIFO was planted under the name, refuse it and don't wait.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None, False
    try:
        info = os.fstat(fd)
        if (
            not stat.S_ISREG(info.st_mode)
            or info.st_uid != os.geteuid()
            or info.st_mode & 0o077
            or info.st_size > _MAX_FILE
        ):
            return None, False
        content = os.read(fd, _MAX_FILE)
    except OSError:
        return None, False
    finally:
        os.close(fd)
    start = len(_MAGIC) + _DIGEST_BYTES
    rest = content[start:]
    if content[:start] != _MAGIC + _digest(key, rest):
        return None, False
    stamp, _, bpf = rest.partition(b"\n")
    if not bpf or len(bpf) % 8:
        return None, False
    library = stamp.rpartition(b" ")[0].rpartition(b" ")[0]
    return bpf, stamp == _stamp(library)


def _digest(key: str, rest: bytes) -> bytes:
    return blake2b(rest, digest_size=_DIGEST_BYTES, key=blake2b(key.encode()).digest()).digest()


def _stamp(library: bytes) -> bytes:
    """Return what tells one libseccomp file from another: path, size and mtime."""
    try:
        info = os.stat(library)
    except OSError:
        return b"gone"
    return b"%b %d %d" % (library, info.st_size, info.st_mtime_ns)


def _write(cache_dir: str, path: str, key: str, bpf: bytes) -> None:
    """Keep a program: a new file of ours alone, complete under its name or not at all."""
    from rootless.linux import files
    from rootless.linux.libseccomp import library_file

    try:
        os.mkdir(cache_dir, 0o700)
    except FileExistsError:
        info = os.lstat(cache_dir)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise PermissionError(1, "the directory is not ours alone") from None
    library = os.fsencode(library_file() or "")
    if b"\n" in library:
        return
    rest = _stamp(library) + b"\n" + bpf
    # Not durable: the checksum finds a file that a power cut has cut short.
    files.write(path, _MAGIC + _digest(key, rest) + rest)
