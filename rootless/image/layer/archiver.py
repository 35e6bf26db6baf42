"""Write files of a container into a tar archive: for export, commit, build and `cp C:/path -`."""

from __future__ import annotations

import os
import stat

from rootless import log
from rootless.image.layer import xattrs
from rootless.image.layer.changes import DELETED
from rootless.image.layer.tar_reader import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
)
from rootless.linux.call import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rootless.image.layer.changes import Change
    from rootless.image.layer.tar_writer import TarWriter
    from rootless.linux.walk import Entry

    OwnerOf = Callable[[bytes, int, os.stat_result], tuple[int, int]]

_SECOND = 1_000_000_000


class Archiver:
    """Write entries of a walk as members of one archive.

    Times are whole seconds, as in Docker's layers. Sockets are left out: a tar archive cannot hold
    one.

    Args:
        lenient: leave a file out that may not be read, with a warning.
        owner: uid and gid of all members, or what returns them for (path, descriptor or -1,
            status); None: those of the files.
        mode: makes the permission bits of a member from its st_mode; links keep theirs.
    """

    __slots__ = ("_lenient", "_links", "_mode", "_owner", "_writer")

    def __init__(
        self,
        writer: TarWriter,
        *,
        lenient: bool = False,
        owner: tuple[int, int] | OwnerOf | None = None,
        mode: Callable[[int], int] = stat.S_IMODE,
    ) -> None:
        self._writer = writer
        self._lenient = lenient
        self._owner = owner
        self._mode = mode
        self._links: dict[tuple[int, int], bytes] = {}

    def add(self, name: bytes, entry: Entry) -> None:
        """Write one file under this name; nothing if it has vanished meanwhile."""
        status = entry.status
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            self._member(name, status, DIRECTORY, found=xattrs.read(entry.fd), fd=entry.fd)
        elif stat.S_ISREG(mode):
            self._file(name, entry)
        elif stat.S_ISLNK(mode):
            link = entry.link()
            if link is not None:
                self._member(name, status, SYMLINK, link)
        elif stat.S_ISFIFO(mode):
            self._member(name, status, FIFO)
        elif stat.S_ISCHR(mode):
            self._member(name, status, CHARACTER)
        elif stat.S_ISBLK(mode):
            self._member(name, status, BLOCK)

    def changes(self, found: Iterable[Change]) -> None:
        """Write what was changed in a writable layer as members of the layer that it becomes."""
        for change in found:
            if change.kind == DELETED:
                self.whiteout(change.path)
            elif change.entry is not None:
                if b"/.wh." in b"/" + change.path:
                    log.warn(
                        f"/{shown(change.path)}: left out: in a layer, that name would delete a "
                        "file"
                    )
                    self.leave_out(change.entry)
                else:
                    self.add(change.path or b".", change.entry)

    def leave_out(self, entry: Entry) -> None:
        """Do without a file that a layer cannot have."""

    def whiteout(self, path: bytes) -> None:
        """Write the member that hides a file of the layers below."""
        parent, _, name = path.rpartition(b"/")
        marker = b".wh." + name
        self._writer.add(parent + b"/" + marker if parent else marker, 0)

    def forget(self, name: bytes) -> None:
        """Let no later member be a hard link to this one, which another member replaces."""
        self._links = {key: first for key, first in self._links.items() if first != name}

    def _file(self, name: bytes, entry: Entry) -> None:
        try:
            fd = entry.open()
        except PermissionError:
            if not self._lenient:
                raise
            log.warn(f"/{shown(name)}: permission denied: left out")
            return
        if fd < 0:
            return
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                first = self._links.setdefault(key, name)
                if first != name:
                    self._member(name, status, HARD_LINK, first, fd=fd)
                    return
            found = xattrs.read(fd)
            self._member(name, status, REGULAR, size=status.st_size, found=found, fd=fd)
            self._contents(fd, status.st_size, name)
        finally:
            os.close(fd)

    def _contents(self, fd: int, size: int, name: bytes) -> None:
        self._writer.copy(fd)

    def _member(
        self,
        name: bytes,
        status: os.stat_result,
        kind: bytes,
        link: bytes = b"",
        size: int = 0,
        found: dict[bytes, bytes] | None = None,
        fd: int = -1,
    ) -> None:
        if found and xattrs.CAPABILITY in found:
            # Without the number that the kernel has added for this user namespace.
            plain = xattrs.plain_capability(found.pop(xattrs.CAPABILITY))
            if plain is not None:
                found[xattrs.CAPABILITY] = plain
        mode = stat.S_IMODE if kind == SYMLINK else self._mode
        owner = self._owner
        if callable(owner):
            owner = owner(name, fd, status)
        uid, gid = owner or (status.st_uid, status.st_gid)
        self._writer.add(
            name,
            mode(status.st_mode),
            uid,
            gid,
            status.st_mtime_ns // _SECOND * _SECOND,
            kind,
            link,
            size,
            os.major(status.st_rdev),
            os.minor(status.st_rdev),
            found,
        )
