"""Fake root with a memory: a process that answers a RUN's changes of owners, and notes them.

Where one id is mapped, chown(2) to another one fails. The filter of the RUN notifies of these calls
(`spec.fakeroot`), and the recorder does what can be done: the file gets to root, for the errors and
the effects that chown has besides, and its owner is noted (`image.layer.owners`). stat(2) shows root
still. POSIX ACLs of other ids, and device nodes, cannot be had: success is the answer, and the
call is counted.

A RUN is hostile. What is looked up is so beneath its own root, without magic links, and a file that
is exchanged meanwhile is another one of its own: nothing is done that it could not do itself.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import signal
import stat
import struct
from typing import TYPE_CHECKING

from rootless.errors import SyscallError
from rootless.image.layer import owners
from rootless.linux import prctl, seccomp_notify, unix
from rootless.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    openat2,
)

if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.linux.seccomp_notify import Call

_SOCKET_KIND = 1  # SOCK_STREAM
_CWD = -100  # AT_FDCWD
_NOFOLLOW, _EMPTY_PATH = 0x100, 0x1000
_SAME = 0xFFFFFFFF  # (uid_t) -1
_ACLS = b"system.posix_acl_"
_ACCESS = b"system.posix_acl_access"
_ACL_BYTES = 64 << 10
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, id; behind a version of 4 bytes
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_OWNERS = ("chown", "lchown", "fchown", "fchownat")
_ATTRIBUTES = ("setxattr", "lsetxattr", "fsetxattr")
_DEVICES = ("mknod", "mknodat")
# Nothing is there for us: of the kernel's own file systems, or the host's.
_HARMLESS = (errno.EPERM, errno.EACCES, errno.ELOOP, errno.EINVAL, errno.ENOTSUP)
_OWN_DESCRIPTOR = re.compile(rb"/(?:proc/(?:thread-)?self|dev)/fd/([0-9]{1,9})")
_KERNELS = (b"/proc/", b"/dev/")
_COUNTS = ("owners", "ACLs", "devices")


class Recorder:
    """The process; it ends with the caller.

    Attributes:
        fd: the socket that gets the filter's descriptor; whoever closes it sends none.
    """

    def __init__(self, root: str) -> None:
        """Start it.

        Args:
            root: the tree of the RUN, mounted.
        """
        self.fd, theirs = unix.pair(_SOCKET_KIND)
        self._counts = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the process
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                prctl.set_parent_death_signal(signal.SIGKILL)
                os.close(self.fd)
                if os.getppid() == parent:
                    _Answers(os.stat(root).st_dev, self._counts).serve(theirs)
            finally:
                os._exit(0)
        os.close(theirs)

    def close(self) -> None:
        """End it."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def without_effect(self) -> str:
        """Return what was answered without effect, "" for nothing."""
        found = [
            f"{number} of {kind}"
            for place, kind in enumerate(_COUNTS)
            if (number := _number(self._counts, place))
        ]
        return ", ".join(found)


def _number(counts: mmap.mmap, place: int) -> int:
    return int.from_bytes(counts[8 * place : 8 * place + 8], "little")


class _Answers:
    def __init__(self, device: int, counts: mmap.mmap) -> None:
        self._device = device
        self._counts = counts
        self._native = -1

    def serve(self, channel: int) -> NoReturn:
        """Answer every call, until this process is killed."""
        names = seccomp_notify.numbers((*_OWNERS, *_ATTRIBUTES, *_DEVICES))
        listener = unix.receive_fd(channel)
        while True:
            for call in seccomp_notify.calls(listener):
                self._answer(call, names.get(call.number, ""))

    def _answer(self, call: Call, name: str) -> None:
        if self._native < 0:
            self._native = call.arch  # init's own calls come first
        if call.arch != self._native or name in _DEVICES or not name:
            self._count("devices" if name in _DEVICES else "owners")
            call.answer()
            return
        try:
            if name in _OWNERS:
                self._change_owner(call, name)
            elif not self._drop_acl(call, name):
                call.go_on()
                return
        except OSError as error:
            call.answer(error.errno or errno.EIO)
        except SyscallError as error:
            call.answer(0 if error.errno == errno.ELOOP else error.errno)
        else:
            call.answer()

    def _count(self, kind: str) -> None:
        place = _COUNTS.index(kind)
        self._counts[8 * place : 8 * place + 8] = (_number(self._counts, place) + 1).to_bytes(
            8, "little"
        )

    # -- files -------------------------------------------------------------------------------

    def _change_owner(self, call: Call, name: str) -> None:
        fd = self._open(call, name)
        try:
            uid, gid = call.args[2:4] if name == "fchownat" else call.args[1:3]
            self._note(fd, uid & _SAME, gid & _SAME)
        finally:
            os.close(fd)

    def _note(self, fd: int, uid: int, gid: int) -> None:
        path = f"/proc/self/fd/{fd}"
        try:
            os.chown(path, -1 if uid == _SAME else 0, -1 if gid == _SAME else 0)
        except OSError as error:
            if error.errno not in _HARMLESS:
                raise
        if os.stat(path).st_dev != self._device:
            return  # a mount: nothing of it is in the image
        try:
            owners.note(path, None if uid == _SAME else uid, None if gid == _SAME else gid)
        except OSError:
            if uid not in (0, _SAME) or gid not in (0, _SAME):
                self._count("owners")

    def _drop_acl(self, call: Call, name: str) -> bool:
        """Tell whether it sets an ACL for ids that are not mapped: only the file's mode is set then.

        One without such ids is the kernel's business: cp(1) sets modes so.
        """
        try:
            wanted = call.text(call.args[1])
            acl = call.memory(call.args[2], min(call.args[3], _ACL_BYTES))
        except OSError:
            return False  # the kernel says so better
        if not wanted.startswith(_ACLS):
            return False
        mode = mode_of_foreign_acl(acl)
        if mode is None:
            return False
        if wanted == _ACCESS:
            try:
                fd = self._open(call, name)
            except (OSError, SyscallError):
                return False
            try:
                path = f"/proc/self/fd/{fd}"
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o777 | mode)
            finally:
                os.close(fd)
        self._count("ACLs")
        return True

    # -- names -------------------------------------------------------------------------------

    def _open(self, call: Call, name: str) -> int:
        """Return the file that a call is about, as a descriptor for names only.

        Raises:
            OSError, SyscallError: what the call fails with.
        """
        first = call.args[0]
        if name in ("fchown", "fsetxattr"):
            return self._descriptor(call, first & 0xFFFFFFFF)
        flags = call.args[4] if name == "fchownat" else 0
        follows = name not in ("lchown", "lsetxattr") and not flags & _NOFOLLOW
        dir_fd, address = _CWD, first
        if name == "fchownat":
            dir_fd, address = _signed(first), call.args[1]
        path = call.text(address)
        if not path:
            if not flags & _EMPTY_PATH:
                raise OSError(errno.ENOENT, "empty path")
            return self._descriptor(call, dir_fd)
        return self._look_up(call, dir_fd, path, os.O_PATH | (0 if follows else os.O_NOFOLLOW))

    def _descriptor(self, call: Call, number: int) -> int:
        where = "cwd" if number == _CWD else f"fd/{number}"
        try:
            fd = os.open(f"/proc/{call.pid}/{where}", os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EBADF, "bad descriptor") from None
        return _checked(call, fd)

    def _look_up(self, call: Call, dir_fd: int, path: bytes, flags: int) -> int:
        own = _OWN_DESCRIPTOR.fullmatch(path)
        if own and not flags & os.O_NOFOLLOW:
            return self._descriptor(call, int(own[1]))
        root = os.open(f"/proc/{call.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not path.startswith(b"/"):
                below = self._descriptor(call, dir_fd)
                try:
                    beneath = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
                    return _checked(call, openat2(below, path, flags, 0, beneath))
                except SyscallError as error:
                    if error.errno not in (errno.EXDEV, errno.ENOENT):
                        raise
                    path = _path_of(below, root) + b"/" + path
                finally:
                    os.close(below)
            return _checked(call, _open_in(root, path, flags))
        finally:
            os.close(root)


def mode_of_foreign_acl(acl: bytes) -> int | None:
    """Return the permission bits of an ACL for ids other than root's; None: it has none of them.

    Source: linux/posix_acl_xattr.h; acl(5), "CORRESPONDENCE BETWEEN ACL ENTRIES AND FILE
    PERMISSION BITS".
    """
    whole = len(acl) - (len(acl) - 4) % _ACL_ENTRY.size if len(acl) >= 4 else 0
    entries = [*_ACL_ENTRY.iter_unpack(acl[4:whole])] if whole else []
    if not any(tag in (_USER, _GROUP) and number for tag, _, number in entries):
        return None
    bits: dict[int, int] = {
        tag: permissions & 7 for tag, permissions, _ in entries if tag not in (_USER, _GROUP)
    }
    group = bits.get(_MASK, bits.get(_GROUP_OBJ, 0))
    return bits.get(_USER_OBJ, 0) << 6 | group << 3 | bits.get(_OTHER, 0)


def _open_in(root: int, path: bytes, flags: int) -> int:
    in_root = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(root, path, flags, 0, in_root)
    except SyscallError as error:
        # In the /proc of the RUN there is no `self` for us: nothing of it is in the image.
        if error.errno == errno.ENOENT and (
            path.startswith(_KERNELS) or _link(root, path).startswith(_KERNELS)
        ):
            return os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        raise


def _link(root: int, path: bytes) -> bytes:
    """Return what a link says, b"" if it is none."""
    try:
        fd = openat2(root, path, os.O_PATH | os.O_NOFOLLOW)
    except SyscallError:
        return b""
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _checked(call: Call, fd: int) -> int:
    """Return the descriptor, if it was the caller's /proc that it was looked up by."""
    if not call.is_valid():
        os.close(fd)
        raise OSError(errno.EINTR, "it has gone")
    return fd


def _path_of(directory: int, root: int) -> bytes:
    """Return the path of a directory as its process has it, from its root on."""
    path, base = (os.readlink(f"/proc/self/fd/{fd}").encode("utf-8", "surrogateescape")
                  for fd in (directory, root))  # fmt: skip
    return path.removeprefix(base) if base != b"/" else path


def _signed(register: int) -> int:
    number = register & 0xFFFFFFFF
    return number - (1 << 32) if number & (1 << 31) else number
