"""A squashfs image without FUSE: unpacked by unsquashfs into a cache, once for each file.

A run holds a shared lock on the directory. A process that unpacks another image removes those that
have not been used for two weeks. unsquashfs reads a file from a stranger, so it can write only to
that directory, and has no network.

Where it runs: as `rootless.rootfs.mount`.
"""

from __future__ import annotations

import errno
import os
import time

from rootless import log
from rootless.errors import RlessError, SyscallError, escape
from rootless.linux import caps, ns, process, programs, tree
from rootless.linux import mount as mounts
from rootless.linux.exec_helper import exec_helper
from rootless.linux.locks import lock
from rootless.rootfs import fuse
from rootless.rootfs.entries import make_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

UNPACKER = "unsquashfs"
_UNUSED_SECONDS = 14 * 24 * 3600.0
_UNPACKER_RIGHTS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"]


class Packed:
    """An image that is to be unpacked: its open file, and why it is not mounted."""

    __slots__ = ("fd", "offset", "path", "reason")

    def __init__(self, fd: int, path: str, offset: int, reason: RlessError) -> None:
        self.fd = fd
        self.path = path
        self.offset = offset
        self.reason = reason


def acquire(cache: str, name: str, source: Packed) -> tuple[str, int]:
    """Return the directory of an unpacked image, made if absent, and a lock on it.

    Args:
        cache: made if absent.
        name: of the directory in it; begins with the key of the id map and a hyphen.

    Raises:
        RlessError: it cannot be unpacked, or there is nothing that could.
    """
    program = programs.find(UNPACKER)
    if program is None:
        raise RlessError(
            f"cannot mount {escape(source.path)}: {source.reason.message}; and {UNPACKER} is not"
            " installed",
            "ask the administrator for squashfuse and /dev/fuse, or for squashfs-tools",
        ) from source.reason
    while True:
        try:
            lock_fd = os.open(f"{cache}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            log.warn(
                f"{escape(source.path)} is unpacked to {cache} once, as it cannot be mounted: "
                f"{source.reason.message}"
            )
            make_entry(
                cache,
                name,
                lambda directory: unpack(program, source, directory),
                lambda cache_fd: _remove_unused(cache_fd, name.partition("-")[0]),
            )
            continue
        lock(lock_fd, shared=True)
        try:
            if os.path.samestat(os.fstat(lock_fd), os.stat(f"{cache}/{name}")):
                os.utime(lock_fd)
                return f"{cache}/{name}/root", lock_fd
        except FileNotFoundError:
            pass
        os.close(lock_fd)  # it was removed between the two calls


def _remove_unused(cache_fd: int, key: str) -> None:
    """Remove what nobody has used for long, and one whose making was cut short."""
    for name in os.listdir(cache_fd):
        if not name.startswith((f"{key}-", f".{key}-")):
            continue  # a record; or of another map: the owners of its files have no ids here
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=cache_fd)
        try:
            fresh = time.time() - os.fstat(fd).st_mtime < _UNUSED_SECONDS
            if (name.startswith(".") or not fresh) and lock(fd, wait=False):
                hidden = f".{name.lstrip('.')}"
                os.rename(name, hidden, src_dir_fd=cache_fd, dst_dir_fd=cache_fd)
                tree.remove_tree(cache_fd, hidden)
        except (OSError, RlessError):
            pass  # a container uses it
        finally:
            os.close(fd)


def unpack(program: str, source: Packed, directory: str) -> None:
    """Run unsquashfs, which may write in `directory` only and has no network.

    Raises:
        RlessError: it failed; what it said last.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        exec_helper(lambda: _unpack_alone(program, source, directory), -1, writer, [source.fd])
    os.close(writer)
    code, said = process.outcome(pid, reader)
    # 2: an owner, an attribute or a device that nobody here can make.
    if code not in (0, 2) or not os.path.isdir(f"{directory}/root"):
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with {code}"
        place = os.statvfs(directory)
        if not place.f_bavail or b"No space left" in said:
            raise SyscallError(f"unpack {escape(source.path)} to {directory}", errno.ENOSPC)
        raise RlessError(f"cannot unpack {escape(source.path)}: {UNPACKER}: {escape(why)[:300]}")


def _unpack_alone(program: str, source: Packed, directory: str) -> NoReturn:
    """Become unsquashfs, in a child of its own."""
    os.umask(0)
    # Where 0 is not mapped, the owners are all the same one.
    process.become_root(keep_groups=True)
    ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWNET | ns.CLONE_NEWIPC)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount(directory, directory, None, mounts.MS_BIND)
    root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mounts.mount_setattr(root_fd, set_=mounts.MOUNT_ATTR_RDONLY, recursive=True)
    place_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.mount_setattr(place_fd, clear=mounts.MOUNT_ATTR_RDONLY)
    os.chdir(directory)
    fuse.keep_only(caps.mask(_UNPACKER_RIGHTS))
    argv = [UNPACKER, "-n", "-q", "-f", "-d", "root"]
    if source.offset:
        argv += ["-o", str(source.offset)]
    os.execve(program, [*argv, f"/proc/self/fd/{source.fd}"], process.HELPER_ENVIRONMENT)
