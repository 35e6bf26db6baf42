"""Transfer a tree of files from one process to another, with open descriptors.

One process is in a container's mount namespace (`rootfs_access`), the other on the host, and each
looks up names on its own side only. For each file a socket carries one datagram: its kind, its name
without any slash, and, for a regular file, a descriptor open for reading. The receiver's kernel
copies the contents from file to file, so no path of one side ever has a meaning on the other.

    D name    a directory; what follows is in it, until U
    U         it is complete
    F name    a regular file; with a descriptor; a number if it has more than one name
    L name    a symbolic link; its target
    E         the end

`Writer` receives. It makes each file anew with O_EXCL in a directory that it holds open, never
through a link, and changes it only by the descriptor that made it. So a process that swaps names in
that directory meanwhile gains nothing (security class 36).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct

from rootless import log
from rootless.errors import RlessError, SyscallError
from rootless.linux.call import shown
from rootless.linux.filesystem import is_kernels
from rootless.linux.openat2 import BENEATH, RESOLVE_NO_SYMLINKS, openat2
from rootless.linux.walk import Entry, walk
from rootless.rootfs.copy import copy_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Sink(Protocol):
        """What receives a tree, one file at a time."""

        def directory(self, name: bytes, status: Facts) -> None: ...
        def leave(self) -> None: ...
        def file(self, name: bytes, status: Facts, fd: int) -> None: ...
        def symlink(self, name: bytes, status: Facts, target: bytes) -> None: ...


_HEAD = struct.Struct("<cIIIqQQ")  # kind, mode, uid, gid, mtime, size, number of a linked file
_LONGEST = 16384  # bytes of a message: a name, and the target of a link
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 20  # to remove a name before another one takes it


class Facts:
    """The part of a file's status that is transferred.

    Attributes:
        mtime: nanoseconds. number: identifies a file with several names; 0 for all others.
    """

    __slots__ = ("gid", "mode", "mtime", "number", "size", "uid")

    def __init__(
        self, mode: int, uid: int, gid: int, mtime: int, size: int = 0, number: int = 0
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = size
        self.number = number


def facts_of(status: os.stat_result) -> Facts:
    """Return the facts of a file."""
    return Facts(
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size,
    )


# -- reading a tree ------------------------------------------------------------------------------


class Reader:
    """Give a file, or a directory with all its contents, to a sink.

    Devices, FIFOs and sockets cannot be copied: they are left out, with one line each. The contents
    of /proc, /sys and the like are left out without a line.
    """

    __slots__ = ("_numbers", "_report", "_sink", "copied", "where")

    def __init__(self, sink: Sink, where: str, report: Callable[[int], None] | None = None) -> None:
        self._sink = sink
        self._numbers: dict[tuple[int, int], int] = {}
        self._report = report
        self.where = where  # how warnings name the root of the tree
        self.copied = 0

    def give(self, dir_fd: int, name: bytes, as_name: bytes) -> None:
        """Hand over what `name` in a directory is, under another name.

        Raises:
            RlessError: it is a device, a FIFO or a socket.
            OSError: EACCES, ENOENT...
        """
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            fd = openat2(dir_fd, name, _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
            try:
                self.tree(fd, as_name)
            finally:
                os.close(fd)
            return
        if not self._one(Entry(name, name, dir_fd, -1, status), as_name):
            raise RlessError(
                f"cannot copy {self.where}: it is a {kind_of(status.st_mode)}", None, 1
            )

    def tree(self, root_fd: int, as_name: bytes) -> None:
        """Hand over an open directory with all that is in it."""
        device = os.fstat(root_fd).st_dev
        for entry in walk(root_fd):
            if entry.fd >= 0 and entry.leaving:
                self._sink.leave()
            elif entry.fd >= 0:
                self._sink.directory(entry.name or as_name, facts_of(entry.status))
                if entry.status.st_dev != device:
                    entry.skip = is_kernels(entry.fd) or entry.path == b"dev"
            elif not self._one(entry, entry.name):
                what = kind_of(entry.status.st_mode)
                log.warn(f"{self.where}/{shown(entry.path)}: a {what} is not copied")

    def _one(self, entry: Entry, as_name: bytes) -> bool:
        """Hand over what is no directory; False: it is nothing that can be copied."""
        mode = entry.status.st_mode
        if stat.S_ISLNK(mode):
            target = entry.link()
            if target is not None:
                self._sink.symlink(as_name, facts_of(entry.status), target)
            return True
        if not stat.S_ISREG(mode):
            return False
        fd = entry.open()
        if fd < 0:
            return True  # it has vanished meanwhile
        try:
            status = os.fstat(fd)
            facts = facts_of(status)
            if status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                facts.number = self._numbers.setdefault(key, len(self._numbers) + 1)
            self._sink.file(as_name, facts, fd)
            self.copied += status.st_size
            if self._report is not None:
                self._report(self.copied)
        finally:
            os.close(fd)
        return True


def kind_of(mode: int) -> str:
    """Return the word for a type of file."""
    for test, word in (
        (stat.S_ISREG, "regular file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return word
    return "device"


# -- over the socket -----------------------------------------------------------------------------


class EndedError(RlessError):
    """The other side has ended, and has reported the reason itself."""

    consequence = True

    def __init__(self) -> None:
        super().__init__("the other side of the copy has ended", None, 1)


class Sender:
    """A sink at the other end of a socket."""

    __slots__ = ("_socket",)

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def directory(self, name: bytes, status: Facts) -> None:
        self._send(b"D", name, status)

    def leave(self) -> None:
        self._send(b"U", b"", _NOTHING)

    def file(self, name: bytes, status: Facts, fd: int) -> None:
        self._send(b"F", name, status, fd=fd)

    def symlink(self, name: bytes, status: Facts, target: bytes) -> None:
        self._send(b"L", name, status, target)

    def end(self) -> None:
        """Say that all was given."""
        self._send(b"E", b"", _NOTHING)

    def _send(
        self, kind: bytes, name: bytes, status: Facts, target: bytes = b"", fd: int = -1
    ) -> None:
        head = _HEAD.pack(
            kind, status.mode, status.uid, status.gid, status.mtime, status.size, status.number
        )
        message = [head + name + b"\0" + target]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, "little", signed=True))
        try:
            self._socket.sendmsg(message, () if fd < 0 else (rights,), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EndedError from error


_NOTHING = Facts(0, 0, 0, 0)


class Message:
    """One datagram; the receiver owns its descriptor."""

    __slots__ = ("facts", "fd", "kind", "name", "target")

    def __init__(self, kind: bytes, name: bytes, facts: Facts, target: bytes, fd: int) -> None:
        self.kind = kind
        self.name = name
        self.facts = facts
        self.target = target
        self.fd = fd


def receive(connection: socket.socket) -> Message:
    """Take the next message.

    Raises:
        EndedError: the other side is gone.
        RlessError: it says what no side of ours says.
    """
    try:
        data, ancillary, flags, _ = connection.recvmsg(
            _LONGEST, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError as error:
        raise EndedError from error
    fd = -1
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fd = int.from_bytes(rights[:4], "little")
    if len(data) < _HEAD.size or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        if fd >= 0:
            os.close(fd)
        raise EndedError
    word, *numbers = _HEAD.unpack_from(data)
    name, _, target = data[_HEAD.size :].partition(b"\0")
    message = Message(word, name, Facts(*numbers), target, fd)
    bad = b"/" in name or name in (b".", b"..") or (word in (b"D", b"F", b"L") and not name)
    if bad or (word == b"F") != (fd >= 0):
        if fd >= 0:
            os.close(fd)
        raise RlessError("internal error: a message of the copy is damaged", None, 1)
    return message


def receive_into(
    connection: socket.socket,
    writer: Writer,
    first: Message | None = None,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write all that comes, up to the end; `report` is told the bytes so far."""
    message = first or receive(connection)
    while message.kind != b"E":
        try:
            if message.kind == b"D":
                writer.directory(message.name, message.facts)
            elif message.kind == b"U":
                writer.leave()
            elif message.kind == b"F":
                writer.file(message.name, message.facts, message.fd)
            else:
                writer.symlink(message.name, message.facts, message.target)
        finally:
            if message.fd >= 0:
                os.close(message.fd)
        if report is not None:
            report(writer.copied)
        message = receive(connection)


# -- writing a tree ------------------------------------------------------------------------------


class Rules:
    """How files are made.

    Attributes:
        owner: None: the process that makes them; "keep": the numbers of the source, or an error;
            "try": the numbers of the source where that is allowed.
        modes: the mode bits that are kept.
        where: how errors name the destination.
    """

    __slots__ = ("modes", "owner", "where")

    def __init__(self, owner: str | None, modes: int, where: str) -> None:
        self.owner = owner
        self.modes = modes
        self.where = where


class _Level:
    __slots__ = ("facts", "fd", "name")

    def __init__(self, fd: int, name: bytes, facts: Facts | None) -> None:
        self.fd = fd
        self.name = name
        self.facts = facts  # None: the directory was there, and keeps its attributes


class Writer:
    """Write files beneath a directory; the sink on the other side of a `Reader`.

    Args:
        base_fd: the directory that the first name is made in.
        top: the name of the first file or directory, whatever the reader calls it; None: the
            first directory is `base_fd` itself.

    Attributes:
        copied: bytes of the contents so far.
    """

    def __init__(self, base_fd: int, top: bytes | None, rules: Rules) -> None:
        self._rules = rules
        self._top = top
        self._base = base_fd
        self._way = [_Level(os.dup(base_fd), b"", None)]
        # number -> (names on the way to the first one, device, inode)
        self._links: dict[int, tuple[bytes, int, int]] = {}
        self.copied = 0

    def close(self) -> None:
        """Close the directories that are still open."""
        for level in self._way:
            os.close(level.fd)
        self._way = []

    # -- the sink --------------------------------------------------------------------------------

    def directory(self, name: bytes, facts: Facts) -> None:
        """Make a directory, or go into the one that is there."""
        if len(self._way) == 1 and self._top is None:
            self._way.append(_Level(os.dup(self._way[0].fd), b"", None))
            return
        name = self._named(name)
        dir_fd = self._way[-1].fd
        try:
            for _ in range(_TRIES):
                try:
                    os.mkdir(name, 0o700, dir_fd=dir_fd)
                except FileExistsError:
                    pass
                try:
                    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
                    break
                except FileNotFoundError:
                    continue
            else:
                raise RlessError(f"{self._show(name)} is removed again and again", None, 1)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise RlessError(
                    f"cannot overwrite non-directory {self._show(name)} with directory", None, 1
                ) from error
            raise self._failed(name, error) from error
        self._way.append(_Level(fd, name, facts))

    def leave(self) -> None:
        """Give the finished directory its attributes: writing into it has changed its time."""
        level = self._way.pop()
        try:
            if level.facts is not None:
                try:
                    self._attributes(level.fd, level.facts)
                except OSError as error:
                    raise self._failed(level.name, error) from error
        finally:
            os.close(level.fd)

    def file(self, name: bytes, facts: Facts, fd: int) -> None:
        """Write a regular file in place of what has its name."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RlessError("internal error: that is no regular file", None, 1)

        def copy(made: int) -> int:
            status = os.fstat(fd)
            copy_data(fd, made, status)
            return status.st_size

        self.contents(name, facts, copy)

    def contents(self, name: bytes, facts: Facts, copy: Callable[[int], int]) -> None:
        """Make a regular file, which `copy` fills; it returns how many bytes there are."""
        name = self._named(name)
        dir_fd = self._way[-1].fd
        try:
            if facts.number and self._linked(dir_fd, name, facts.number):
                return
            made = self._create(dir_fd, name)
            try:
                self.copied += copy(made)
                self._attributes(made, facts)
                if facts.number:
                    status = os.fstat(made)
                    path = b"/".join([*(level.name for level in self._way[1:]), name])
                    self._links[facts.number] = (path.lstrip(b"/"), status.st_dev, status.st_ino)
            finally:
                os.close(made)
        except OSError as error:
            raise self._failed(name, error) from error

    def symlink(self, name: bytes, facts: Facts, target: bytes) -> None:
        """Make a symbolic link in place of what has its name."""
        name = self._named(name)
        dir_fd = self._way[-1].fd
        try:
            self._place(dir_fd, name, lambda: os.symlink(target, name, dir_fd=dir_fd))
            if self._rules.owner is not None:
                self._chown(name, facts, dir_fd)
            times = (facts.mtime, facts.mtime)
            os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            pass  # somebody has removed it at once
        except OSError as error:
            raise self._failed(name, error) from error

    def link(self, name: bytes, source_fd: int, base: bytes) -> None:
        """Make a second name of a regular file in an open directory; of a link, a second link."""
        name = self._named(name)
        dir_fd = self._way[-1].fd
        try:
            status = os.stat(base, dir_fd=source_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise RlessError(f"{self._show(name)}: a hard link to a directory", None, 1)
            try:
                there = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                    return  # linked to itself
            except FileNotFoundError:
                pass
            self._place(
                dir_fd,
                name,
                lambda: os.link(
                    base, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False
                ),
            )
        except OSError as error:
            raise self._failed(name, error) from error

    # -- pieces ----------------------------------------------------------------------------------

    def _named(self, name: bytes) -> bytes:
        return self._top if len(self._way) == 1 and self._top is not None else name

    def _create(self, dir_fd: int, name: bytes) -> int:
        made: list[int] = []
        self._place(dir_fd, name, lambda: made.append(os.open(name, _CREATE, 0o600, dir_fd=dir_fd)))
        return made[0]

    def _place(self, dir_fd: int, name: bytes, make: object) -> None:
        """Call `make`, which must not find the name taken; what takes it is removed."""
        for _ in range(_TRIES):
            try:
                make()  # type: ignore[operator]
                return
            except FileExistsError:
                pass
            try:
                os.unlink(name, dir_fd=dir_fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.EISDIR, errno.EPERM) and _is_directory(dir_fd, name):
                    raise RlessError(
                        f"cannot overwrite directory {self._show(name)} with non-directory", None, 1
                    ) from error
                raise
        raise RlessError(f"{self._show(name)} is made again and again by others", None, 1)

    def _linked(self, dir_fd: int, name: bytes, number: int) -> bool:
        """Make another name of a file that was written already; False: it is to be copied."""
        first = self._links.get(number)
        if first is None:
            return False
        path, device, inode = first
        parent, _, base = path.rpartition(b"/")
        try:
            parent_fd = openat2(
                self._base, parent or b".", os.O_PATH | os.O_DIRECTORY, resolve=BENEATH
            )
        except SyscallError:
            return False
        try:
            self._place(
                dir_fd,
                name,
                lambda: os.link(
                    base, name, src_dir_fd=parent_fd, dst_dir_fd=dir_fd, follow_symlinks=False
                ),
            )
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return False  # gone, or no links there
        finally:
            os.close(parent_fd)
        # Whoever swapped the first name gets the contents once more, and no link to another file.
        return (status.st_dev, status.st_ino) == (device, inode)

    def _attributes(self, fd: int, facts: Facts) -> None:
        if self._rules.owner is not None:
            self._chown(fd, facts)
        os.fchmod(fd, facts.mode & self._rules.modes)
        os.utime(fd, ns=(facts.mtime, facts.mtime))

    def _chown(self, file: int | bytes, facts: Facts, dir_fd: int | None = None) -> None:
        try:
            if isinstance(file, int):
                os.chown(file, facts.uid, facts.gid)
            else:
                os.chown(file, facts.uid, facts.gid, dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if self._rules.owner == "try":
                return
            if error.errno == errno.EINVAL:
                raise RlessError(
                    f"cannot keep the owner {facts.uid}:{facts.gid}: not in the container's id map",
                    "leave -a away: the files become root's",
                    1,
                ) from error
            raise

    def _show(self, name: bytes) -> str:
        way = b"/".join([*(level.name for level in self._way[1:] if level.name), name])
        return f"{self._rules.where.rstrip('/')}/{way.decode('utf-8', 'backslashreplace')}"

    def _failed(self, name: bytes, error: OSError) -> RlessError:
        if error.errno == errno.EROFS:
            return ReadOnlyError()
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        return RlessError(f"cannot write {self._show(name)}: {error.strerror}", hint, 1)


class ReadOnlyError(RlessError):
    """Report a destination that is mounted read-only."""

    def __init__(self) -> None:
        super().__init__("it is mounted read-only", None, 1)


def _is_directory(dir_fd: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
