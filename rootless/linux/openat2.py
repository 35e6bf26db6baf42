"""Open a path beneath a root that may be hostile (openat2(2), Linux 5.6)."""

from __future__ import annotations

import errno
import os

from rootless.errors import SyscallError
from rootless.linux import ffi
from rootless.linux.call import SYS_OPENAT2, encode, shown, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS  # links count from the directory, too
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS  # below the directory, through no link

_ATTEMPTS = 64
LINKS = 40  # the kernel's limit of symbolic links in a path


_OPEN_HOW = ffi.Struct("=3Q")  # struct open_how (linux/openat2.h): flags, mode, resolve


def openat2(
    dir_fd: int,
    path: str | bytes,
    flags: int,
    mode: int = 0,
    resolve: int = IN_ROOT,
) -> int:
    """Open `path` with `dir_fd` as the root of every lookup; return a close-on-exec descriptor.

    With the default, absolute paths and links count from `dir_fd`, and `..` stops there.

    Args:
        mode: permission bits of a new file; only with O_CREAT.

    Raises:
        SyscallError: EXDEV: `..` raced with a rename, for the 64th time, or a forbidden mount
            crossing; ELOOP: a forbidden link.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_ATTEMPTS):
        try:
            return syscall(
                f"open({shown(path)})",
                SYS_OPENAT2,
                dir_fd,
                encode(path),
                how,
                len(how),
            )
        except SyscallError as error:
            # The kernel gives EAGAIN where a rename happened during `..`: try again.
            if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def make_dirs(root_fd: int, path: str | bytes, mode: int = 0o755, resolve: int = IN_ROOT) -> int:
    """Open the directory `path` beneath `root_fd`, making what is missing; return an O_PATH fd.

    Links inside the root are followed inside the root, and where one dangles, what it points to
    is made. Each component is made by descriptor in the parent that was just opened, so a link
    swapped in gains nothing.

    Args:
        resolve: RESOLVE_*, RESOLVE_IN_ROOT among them.

    Raises:
        SyscallError: ENOTDIR: a component is a file; ELOOP: links in a circle, or a forbidden one.
    """
    return _make_dirs(root_fd, encode(path) or b"", mode, resolve, LINKS)


def make_file(root_fd: int, path: str | bytes, mode: int = 0o644, resolve: int = IN_ROOT) -> int:
    """Open the file `path` beneath `root_fd`, made if it is missing; return an O_PATH fd.

    Raises:
        SyscallError: as `make_dirs`.
    """
    return _make_file(root_fd, encode(path) or b"", mode, resolve, LINKS)


def _make_dirs(root_fd: int, raw: bytes, mode: int, resolve: int, links: int) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    there = len(names)  # mostly all are there, or all but the last
    while there:
        try:
            current = openat2(root_fd, b"/".join(names[:there]), flags, resolve=resolve)
            break
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            there -= 1
    else:
        current = os.open(".", flags, dir_fd=root_fd)
    try:
        for index in range(there, len(names)):
            name, done = names[index], b"/".join(names[: index + 1])
            try:
                os.mkdir(name, mode, dir_fd=current)
            except FileExistsError:
                pass  # a dangling link, or somebody was faster
            except OSError as failure:
                raise SyscallError(f"mkdir({shown(done)})", failure.errno or 0) from failure
            try:
                following = openat2(root_fd, done, flags, resolve=resolve)
            except SyscallError as failure:
                if failure.errno != errno.ENOENT:
                    raise
                target = _dangling(current, name, b"/".join(names[:index]), links)
                following = _make_dirs(root_fd, target, mode, resolve, links - 1)
            os.close(current)
            current = following
        return current
    except BaseException:
        os.close(current)
        raise


def _make_file(root_fd: int, raw: bytes, mode: int, resolve: int, links: int) -> int:
    parent, _, name = raw.rstrip(b"/").rpartition(b"/")
    parent_fd = _make_dirs(root_fd, parent, 0o755, resolve, links)
    try:
        try:
            # The kernel follows a last link that dangles, and makes its target.
            flags = os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
            os.close(openat2(root_fd, raw, flags, mode, resolve))
            return openat2(root_fd, raw, os.O_PATH, resolve=resolve)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        target = _dangling(parent_fd, name, parent, links)
    finally:
        os.close(parent_fd)
    return _make_file(root_fd, target, mode, resolve, links - 1)


def _dangling(dir_fd: int, name: bytes, parent: bytes, links: int) -> bytes:
    """Return where the link `name` points to, as a path beneath the root."""
    if not links:
        raise SyscallError(f"open({shown(parent + b'/' + name)})", errno.ELOOP)
    try:
        target = os.readlink(name, dir_fd=dir_fd)
    except OSError as error:
        raise SyscallError(f"readlink({shown(name)})", error.errno or 0) from error
    return target if target.startswith(b"/") else parent + b"/" + target
