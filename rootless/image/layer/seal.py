"""Turn what the kernel's overlayfs has written into a layer, in its place.

An upper directory is nearly a layer: the owners, the whiteouts and the opaque directories are
right. So its files are not written again. Its tar is only computed: one walk writes the headers,
reads the contents for the digest, and records the split. It is the tar that `commit` writes.

What the tar cannot tell goes from the directory, so that it is as a pull of the tar would make it:

    directories that were copied up, in which nothing was changed in the end
    sockets; names that a layer would take for whiteouts; devices, if ever there is one
    attributes that an image may not set: overlayfs's own, POSIX ACLs
    fractions of seconds

Source: kernel filesystems/overlayfs.rst, "Whiteouts and opaque directories", "userxattr".
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.image.layer import xattrs
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.changes import changes
from rootless.image.layer.lookup import OPAQUE_XATTR, WHITEOUT_PREFIX
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.model import limits
from rootless.linux.call import shown
from rootless.linux.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Collection

    from rootless.image.layer.archiver import OwnerOf
    from rootless.image.layer.tarsplit import SplitWriter
    from rootless.linux.walk import Entry
    from rootless.rootfs.stored import Part

_SECOND = 1_000_000_000
_RAW = 256 << 10  # of a record of the split
_CHUNK = 1 << 20
_OPAQUE = os.fsdecode(OPAQUE_XATTR)
_ACLS = "system.posix_acl_"
# Only with mount options that `userxattr` excludes: the file would not have its own contents.
_INCOMPLETE = ("user.overlay.metacopy", "user.overlay.redirect")


class Sealed:
    """What was found on the way.

    Attributes:
        digest: sha256 of the tar, in hexadecimal digits; "": it was put off.
        size: bytes of the files' contents.
        has_root: the tar has attributes for the root. lost_xattrs: how many.
    """

    __slots__ = ("digest", "has_root", "lost_xattrs", "size")

    def __init__(self, digest: str, size: int, has_root: bool, lost_xattrs: int) -> None:
        self.digest = digest
        self.size = size
        self.has_root = has_root
        self.lost_xattrs = lost_xattrs


def seal(
    part: Part,
    split: SplitWriter,
    hidden: Collection[bytes] = (),
    newest: int | None = None,
    owner: OwnerOf | None = None,
    most: int = limits.LAYER_BYTES,
) -> Sealed:
    """Compute the tar of an upper directory, and make the directory as the tar says.

    Nothing may change it meanwhile: it is mounted nowhere.

    Args:
        split: gets the record of the tar.
        hidden: paths that were mounts, without the slash in front: what was made for them goes.
        newest: no file keeps a later time, in seconds since 1970.
        owner: of a file, where the directory does not tell (`owners`).
        most: bytes of contents; if there are more, they are not read, and there is no digest.

    Raises:
        RlessError: a name or an attribute that no layer can have, or too much data.
        OSError: of the file system.
    """
    writer = _Tar(split, most)
    writer.newest = newest
    sealer = _Sealer(writer, newest, owner)
    sealer.changes(changes(part, hidden, sealer.seen))
    writer.end()
    digest = "" if writer.left < 0 else writer.hash.hexdigest()
    return Sealed(digest, sealer.size, sealer.has_root, sealer.lost_xattrs)


class _Tar(TarWriter):
    """A tar that goes nowhere but into its digest and its split.

    Attributes:
        left: bytes of contents that may still be read; below 0: none are, and the digest is void.
    """

    def __init__(self, split: SplitWriter, most: int) -> None:
        super().__init__(self._take)
        self.hash = hashlib.sha256()
        self.left = most
        self._split = split
        self._raw = bytearray()
        self._chunk = bytearray()

    def _take(self, piece: bytes) -> None:
        self.hash.update(piece)
        self._raw += piece
        if len(self._raw) > _RAW:
            self._split_off()

    def _split_off(self, path: bytes = b"", size: int = 0) -> None:
        if self._raw or path:
            self._split.add(bytes(self._raw), path, 0, size)
            self._raw.clear()

    def contents(self, fd: int, size: int, path: bytes) -> None:
        """Read the current member's contents from the file that the layer has at `path`."""
        if not size:
            return
        self._flush()
        self._split_off(path, size)
        self.left -= size
        if self.left < 0:
            self.elsewhere()
            return
        left = size
        if not self._chunk:
            # Not for a layer without contents: it costs 256 page faults.
            self._chunk = bytearray(_CHUNK)
        with memoryview(self._chunk) as view:
            while left:
                count = os.readv(fd, [view[: min(left, _CHUNK)]])
                if not count:
                    raise RlessError(f"/{shown(path)} was changed while it was read")
                self.hash.update(view[:count])
                left -= count
        self.elsewhere()

    def end(self) -> None:
        super().end()
        self._split_off()


class _Sealer(Archiver):
    """Writes the members, and clears each file of what its member does not have."""

    def __init__(self, tar: _Tar, newest: int | None, owner: OwnerOf | None) -> None:
        super().__init__(tar, owner=owner)
        self._tar = tar
        self._newest = newest
        self.size = 0
        self.has_root = False
        self.lost_xattrs = 0

    def add(self, name: bytes, entry: Entry) -> None:
        """Write a member, and adjust its file; a directory's times wait for `seen`."""
        if len(name) > limits.NAME_BYTES:
            raise RlessError(f"a file name of {len(name)} bytes: /{shown(name[:60])}…")
        mode = entry.status.st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self.leave_out(entry)
            return
        if stat.S_ISDIR(mode):
            self.has_root = self.has_root or not entry.path
        elif not stat.S_ISREG(mode):
            self._set_time(entry)
        super().add(name, entry)
        if stat.S_ISDIR(mode):
            self._clear(entry.fd, name)  # what it has for the owner too

    def leave_out(self, entry: Entry) -> None:
        """Delete a file; a directory goes once it is empty."""
        if entry.fd < 0:
            os.unlink(entry.name, dir_fd=entry.dir_fd)

    def seen(self, entry: Entry, is_change: bool) -> None:
        """Delete what is no change; give a directory the time that its member has."""
        if not entry.path:
            self._clear(entry.fd, b"")
            if self.has_root:
                self._set_time(entry)
        elif is_change and not entry.name.startswith(WHITEOUT_PREFIX):
            self._set_time(entry)
        else:
            remove_tree(entry.dir_fd, entry.name)

    def _contents(self, fd: int, size: int, name: bytes) -> None:
        self._clear(fd, name)
        self.size += size
        if self.size > limits.LAYER_BYTES:
            raise RlessError(f"a layer of more than {limits.LAYER_BYTES} bytes")
        self._tar.contents(fd, size, name)
        status = os.fstat(fd)
        time = self._time(status)
        if time != status.st_mtime_ns:
            os.utime(fd, ns=(status.st_atime_ns, time))

    def _set_time(self, entry: Entry) -> None:
        time = self._time(entry.status)
        if entry.fd >= 0:
            os.utime(entry.fd, ns=(entry.status.st_atime_ns, time))
        elif time != entry.status.st_mtime_ns:
            times = (entry.status.st_atime_ns, time)
            os.utime(entry.name, ns=times, dir_fd=entry.dir_fd, follow_symlinks=False)

    def _time(self, status: os.stat_result) -> int:
        time = status.st_mtime_ns // _SECOND * _SECOND
        return time if self._newest is None else min(time, self._newest * _SECOND)

    def _clear(self, fd: int, name: bytes) -> None:
        """Remove the attributes that are not the file's own, or that no image may set."""
        kept = 0
        for attribute in os.listxattr(fd):
            if attribute in _INCOMPLETE:
                raise RlessError(f"/{shown(name)}: it has {attribute}: not a whole file")
            if xattrs.is_allowed(os.fsencode(attribute)):
                kept += 1
            elif attribute == _OPAQUE and os.getxattr(fd, attribute) == b"y":
                pass
            elif attribute.startswith(("user.", _ACLS)):
                self.lost_xattrs += attribute.startswith(_ACLS)
                os.removexattr(fd, attribute)
        if kept > limits.XATTRS:
            raise RlessError(f"/{shown(name)}: too many extended attributes")
