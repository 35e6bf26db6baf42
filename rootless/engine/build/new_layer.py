"""The members of a layer that COPY, ADD and WORKDIR make, and the tree that they are for.

A directory that the tree has is no member, so it keeps its mode and owner, unless the sources have
one for it. All paths are without links: `tree.find` has followed those of a destination, and those
that an archive's names lead through are followed here.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rootless.engine.build import tree
from rootless.errors import RlessError, SyscallError
from rootless.image.layer import xattrs
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.lookup import WHITEOUT_PREFIX
from rootless.image.layer.tar_reader import DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK
from rootless.image.layer.unpack import normalise
from rootless.linux.openat2 import LINKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.layer.tar_reader import Member
    from rootless.image.layer.tar_writer import TarWriter
    from rootless.linux.walk import Entry

# What has no source gets one fixed time: 1980, as a zip archive (a Python wheel) can hold no earlier.
MADE = 315_532_800 * 1_000_000_000
_SECOND = 1_000_000_000
_DIRECTORY_MODE = stat.S_IFDIR | 0o755
_FILE_MODE = stat.S_IFREG | 0o644
_OPEN_DIRECTORIES = 64
_KINDS = {
    REGULAR: stat.S_IFREG,
    HARD_LINK: stat.S_IFREG,
    SYMLINK: stat.S_IFLNK,
    DIRECTORY: stat.S_IFDIR,
    FIFO: stat.S_IFIFO,
}


class NewLayer:
    """The members of the new layer, and the tree that they are for.

    Args:
        before_fd: root of the tree; -1: it is not looked at.
    """

    def __init__(
        self,
        writer: TarWriter,
        before_fd: int,
        owner: tuple[int, int] | None,
        mode: Callable[[int], int],
    ) -> None:
        self._writer = writer
        self._owner = owner
        self._mode = mode
        self._archiver = Archiver(writer, owner=self._owner_of, mode=mode)
        self._owner_of_entry: tuple[int, int] | None = None
        self._before_fd = before_fd
        self._written: dict[bytes, int] = {}  # path -> st_mode
        self._links: dict[bytes, bytes] = {}  # of an archive: path -> where it points to
        self._directories: dict[bytes, int] = {}  # of the tree before: path -> descriptor, or -1

    def close(self) -> None:
        for fd in self._directories.values():
            if fd >= 0:
                os.close(fd)
        self._directories.clear()

    def make(self, path: bytes) -> None:
        """Add a directory with those above it, as far as they are missing."""
        parts = path.split(b"/") if path else []
        for count in range(1, len(parts) + 1):
            here = b"/".join(parts[:count])
            if self._is_new_directory(here):
                uid, gid = self._owner or (0, 0)
                self._writer.add(here, self._mode(_DIRECTORY_MODE), uid, gid, MADE, DIRECTORY)

    def add(self, path: bytes, entry: Entry, owner: tuple[int, int] | None = None) -> None:
        """Add a file or directory as it is; a directory that is there gets its mode and owner.

        Args:
            owner: of the file, where there is none for the layer; None: as it has it.
        """
        self._owner_of_entry = owner
        if stat.S_ISDIR(entry.status.st_mode):
            self._is_new_directory(path)
            self._archiver.add(path, entry)
        else:
            self._replace(path, entry.status.st_mode)
            self._archiver.add(path, entry)

    def _owner_of(self, path: bytes, fd: int, status: os.stat_result) -> tuple[int, int]:
        return self._owner or self._owner_of_entry or (status.st_uid, status.st_gid)

    def text(self, path: bytes, content: bytes) -> None:
        """Add a file with a content."""
        self._replace(path, _FILE_MODE)
        uid, gid = self._owner or (0, 0)
        self._writer.add(path, self._mode(_FILE_MODE), uid, gid, MADE, size=len(content))
        self._writer.data(content)

    def member(self, base: bytes, member: Member, *, owner: bool, mode: bool) -> None:
        """Add a member of an archive beneath a directory; a file's data follows by `data`.

        Whatever is there is replaced, and a directory gets the attributes of the archive. Links on
        the way are followed, with `base` as their root; directories that are missing are made.

        Args:
            owner, mode: take those of the layer instead.

        Raises:
            RlessError: its name or that of a link leaves the archive, or is no file's in an image.
        """
        name = normalise(member.name)
        if not tree.join(base, name):
            return  # the root of the image stays as it is
        path = self._place(base, name)
        self.make(path.rpartition(b"/")[0])
        kind = _KINDS[member.kind]
        link = member.link
        if member.kind == HARD_LINK:
            link = self._place(base, normalise(link))
        self._note(path, kind | member.mode)
        self._links.pop(path, None)
        if member.kind == SYMLINK:
            self._links[path] = link
        uid, gid = (self._owner or (0, 0)) if owner else (member.uid, member.gid)
        bits = self._mode(kind | member.mode) if mode and member.kind != SYMLINK else member.mode
        found = {
            name: value
            for name, value in (member.xattrs or {}).items()
            if name == xattrs.CAPABILITY or xattrs.is_allowed(name)
        }
        time = member.mtime // _SECOND * _SECOND
        self._writer.add(path, bits, uid, gid, time, member.kind, link, member.size, xattrs=found)

    def data(self, chunk: bytes) -> None:
        """Write some of the contents of the member."""
        self._writer.data(chunk)

    def _place(self, base: bytes, name: bytes) -> bytes:
        """Return where a name of an archive is, whose parents may be links; its last part is not.

        Raises:
            RlessError: the links go in a circle.
        """
        parent, _, last = name.rpartition(b"/")
        todo = parent.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
            elif part not in (b"", b"."):
                target = self._link(tree.join(base, b"/".join((*done, part))))
                if target is None:
                    done.append(part)
                    continue
                links += 1
                if links > LINKS:
                    raise RlessError(f"{tree.shown(parent)}: too many links", None, 1)
                if target.startswith(b"/"):
                    done.clear()
                todo += target.split(b"/")[::-1]
        return tree.join(base, b"/".join((*done, last)))

    def _link(self, path: bytes) -> bytes | None:
        """Return where the link points to that has a path now; None: there is none."""
        if path in self._written:
            return self._links.get(path)
        parent, _, name = path.rpartition(b"/")
        fd = self._open(parent)
        if fd < 0:
            return None
        try:
            return os.readlink(name, dir_fd=fd)
        except OSError:
            return None

    def _note(self, path: bytes, mode: int) -> None:
        self._refuse_whiteout(path)
        if path in self._written:
            self._archiver.forget(path)
        self._written[path] = mode

    def _is_new_directory(self, path: bytes) -> bool:
        """Tell whether a directory has to be made; note that it is."""
        mode = self._mode_of(path)
        if mode is not None and stat.S_ISDIR(mode):
            return False
        if mode is not None:
            what = "a link" if stat.S_ISLNK(mode) else "a file"
            raise RlessError(
                f"{tree.shown(path)} is {what} there, and a directory in the sources",
                "copy to where the link leads" if stat.S_ISLNK(mode) else None,
                1,
            )
        self._refuse_whiteout(path)
        self._written[path] = _DIRECTORY_MODE
        return True

    def _replace(self, path: bytes, new: int) -> None:
        mode = self._mode_of(path)
        if not path or (mode is not None and stat.S_ISDIR(mode)):
            raise RlessError(
                f"{tree.shown(path)} is a directory there, and none in the sources", None, 1
            )
        self._note(path, new)

    def _refuse_whiteout(self, path: bytes) -> None:
        # In a layer such a name would hide a file (security class 59).
        if b"/" + WHITEOUT_PREFIX in b"/" + path:
            raise RlessError(f"{tree.shown(path)}: no image can have a file of this name", None, 1)

    def _mode_of(self, path: bytes) -> int | None:
        """Return st_mode of what has a path now; None: nothing."""
        if path in self._written:
            return self._written[path]
        parent, _, name = path.rpartition(b"/")
        fd = self._open(parent)
        if fd < 0:
            return None
        try:
            return os.stat(name or b".", dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None

    def _open(self, path: bytes) -> int:
        """Return a descriptor of a directory of the tree before, or -1."""
        if self._before_fd < 0:
            return -1
        fd = self._directories.get(path)
        if fd is None:
            if len(self._directories) >= _OPEN_DIRECTORIES:
                self.close()
            try:
                fd = self._directories[path] = tree.open_path(self._before_fd, path)
            except SyscallError as error:
                message = f"{tree.shown(path)}: {os.strerror(error.errno)}"
                raise RlessError(message, None, 1) from error
        return fd
