"""Write one layer into a directory, as overlayfs wants it, whatever the layer contains.

Theory of operation. This runs in a child that is root of a user namespace with the container's id
map, so owners are container ids and the kernel translates them. It holds a descriptor of the
layer's own directory, and resolves every name of the archive from there, component by component.
The kernel follows no link on the way: links are expanded here, within the layer and those below it.
Files are made with O_EXCL after whatever was there has been unlinked, and changed only through the
descriptor that made them. So no order of members, in one layer or over several, can touch anything
outside (security classes 1 to 4).

A layer holds only what changed. A directory that it does not mention but writes into is made with
the attributes that it has in the layers below; a link below (lib -> usr/lib) is followed. Whiteouts
become what overlayfs reads (a character device 0:0, user.overlay.opaque), or, on a file system that
can hold neither, the `.wh.` files that fuse-overlayfs and the copy driver read.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError, escape
from rootless.image.layer import xattrs
from rootless.image.layer.lookup import OPAQUE_MARKER, OPAQUE_XATTR, WHITEOUT_PREFIX, LayerLookup
from rootless.image.layer.tar_reader import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Member,
    TarReader,
)
from rootless.image.model import limits
from rootless.linux.mount import UNION_XATTR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.layer.tarsplit import SplitWriter
    from rootless.linux.idmap import IdMap

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_META = b".wh..wh."  # aufs' own bookkeeping: nothing that an image may define
_DEFERRED = 200_000  # directories whose times are kept in memory
_CHECK_ROOM = 16 << 20  # a file larger than this is compared with the free space first


class Unpacker:
    """Applies the members of one layer to a directory.

    Args:
        root_fd: the layer's own directory, empty, open for reading.
        view: this layer together with those below it.
        idmap: the map of the user namespace that this runs in.
        overlay_whiteouts: whether the file system takes overlayfs' whiteouts.
        split: records what is needed to write the tar again.

    Attributes:
        bytes: file contents written. skipped_devices, lost_xattrs: how many.
        has_root: the layer has attributes for its root.
    """

    def __init__(
        self,
        root_fd: int,
        view: LayerLookup,
        idmap: IdMap,
        split: SplitWriter,
        *,
        overlay_whiteouts: bool,
    ) -> None:
        self._root_fd = root_fd
        self._view = view
        self._idmap = idmap
        self._split = split
        self._overlay = overlay_whiteouts
        self._single = idmap.single
        self._me = (os.geteuid(), os.getegid())
        self._known_owners = {self._me}
        self._directories: dict[bytes, tuple[int, int]] = {}
        self.bytes = 0
        self.skipped_devices = 0
        self.lost_xattrs = 0
        self.has_root = False

    def apply(self, reader: TarReader, report: Callable[[], None] | None = None) -> None:
        """Write all members, then the times and special modes of the directories."""
        handlers = {
            REGULAR: self._regular,
            DIRECTORY: self._directory,
            SYMLINK: self._symlink,
            HARD_LINK: self._hard_link,
            FIFO: self._fifo,
            CHARACTER: self._device,
            BLOCK: self._device,
        }
        for member in reader:
            path = normalise(member.name)
            parent, _, name = path.rpartition(b"/")
            try:
                if WHITEOUT_PREFIX in path and self._is_marker(parent, name):
                    pass
                elif not path:
                    self._root(member)
                else:
                    handlers[member.kind](member, parent, name, reader)
            except OSError as error:
                raise _failed(path, error.errno or 0) from error
            except SyscallError as error:
                raise _failed(path, error.errno) from error
            if report is not None:
                report()
        self._finish_directories()

    # -- names -------------------------------------------------------------------------------

    def _parent(self, parent: bytes) -> int:
        """Return a descriptor of the directory that a member goes into, made if need be."""
        fd = self._view.cached(parent)
        if fd is None:
            fd = self._view.open_directory(parent, self._imply)
        return fd

    def _imply(self, dir_fd: int, name: bytes, path: bytes, lower: int | None) -> None:
        """Make a directory that the layer writes into but does not mention.

        Args:
            lower: the same directory in a layer below, None if there is none.
        """
        if lower is None:
            os.mkdir(name, 0o755, dir_fd=dir_fd)
            self._remember(path, 0o755, 0)  # the same at each unpacking
            return
        status = os.fstat(lower)
        mode = stat.S_IMODE(status.st_mode)
        os.mkdir(name, mode & 0o1777, dir_fd=dir_fd)
        if not self._single:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=dir_fd, follow_symlinks=False)
        self._copy_xattrs(lower, dir_fd, name)
        self._remember(path, mode, status.st_mtime_ns)

    def _make_room(self, dir_fd: int, parent: bytes, name: bytes) -> bool:
        """Remove what has this name in the layer; tell whether it was a whiteout."""
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size):
            # Its contents, and those of all below it, were part of the tar.
            self._split.keep(dir_fd, name, self._view.canonical(parent, name))
        else:
            os.unlink(name, dir_fd=dir_fd)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            # Descriptors found through it lead elsewhere now.
            self._view.forget()
        return stat.S_ISCHR(status.st_mode)

    # -- members -----------------------------------------------------------------------------

    def _regular(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        dir_fd = self._parent(parent)
        mode = member.mode
        try:
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=dir_fd)
        except FileExistsError:
            self._make_room(dir_fd, parent, name)
            dir_fd = self._parent(parent)
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=dir_fd)
        try:
            if member.size:
                self._contents(fd, member, reader, self._view.canonical(parent, name))
            if not self._single:
                if (member.uid, member.gid) != self._me:
                    os.fchown(fd, *self._owner(member))
                if mode & 0o7000:
                    os.fchmod(fd, mode)
            if member.xattrs is not None:
                self._set_xattrs(fd, member.xattrs)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)
        if not self._overlay:
            self._unmark(dir_fd, name)

    def _contents(self, fd: int, member: Member, reader: TarReader, path: bytes) -> None:
        pieces = member.sparse
        size = member.size if pieces is None else sum(length for _, length in pieces)
        self.bytes += size
        if self.bytes > limits.LAYER_BYTES:
            raise RlessError(f"a layer unpacks to more than {limits.LAYER_BYTES} bytes")
        if size > _CHECK_ROOM:
            room = os.fstatvfs(fd)
            if room.f_bavail * room.f_frsize < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if pieces is None:
            reader.copy_to(fd, size, path)
            return
        os.ftruncate(fd, member.size)
        for offset, length in pieces:
            os.lseek(fd, offset, os.SEEK_SET)
            reader.copy_to(fd, length, path, offset)

    def _directory(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        dir_fd = self._parent(parent)
        opaque = False
        try:
            os.mkdir(name, member.mode & 0o1777, dir_fd=dir_fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                opaque = self._make_room(dir_fd, parent, name)
                dir_fd = self._parent(parent)
                os.mkdir(name, member.mode & 0o1777, dir_fd=dir_fd)
            elif stat.S_IMODE(status.st_mode) != member.mode & 0o1777:
                self._chmod_directory(dir_fd, name, member.mode & 0o1777)
        if not self._single:
            uid, gid = self._owner(member)
            os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        if member.xattrs is not None:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
            try:
                self._set_xattrs(fd, member.xattrs)
            finally:
                os.close(fd)
        path = self._view.canonical(parent, name)
        if not self._overlay:
            opaque = self._unmark(dir_fd, name)
        if opaque:
            self._set_opaque(path)
        self._remember(path, member.mode, member.mtime)

    def _chmod_directory(self, dir_fd: int, name: bytes, mode: int) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _symlink(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        self._make_symlink(member.link, member, parent, name)

    def _make_symlink(self, target: bytes, member: Member, parent: bytes, name: bytes) -> None:
        dir_fd = self._parent(parent)
        try:
            os.symlink(target, name, dir_fd=dir_fd)
        except FileExistsError:
            self._make_room(dir_fd, parent, name)
            dir_fd = self._parent(parent)
            os.symlink(target, name, dir_fd=dir_fd)
        self._finish(member, dir_fd, name)

    def _fifo(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        dir_fd = self._parent(parent)
        try:
            os.mkfifo(name, member.mode & 0o777, dir_fd=dir_fd)
        except FileExistsError:
            self._make_room(dir_fd, parent, name)
            dir_fd = self._parent(parent)
            os.mkfifo(name, member.mode & 0o777, dir_fd=dir_fd)
        self._finish(member, dir_fd, name)

    def _finish(self, member: Member, dir_fd: int, name: bytes) -> None:
        """Set owner and times of what cannot be opened."""
        if not self._single and (member.uid, member.gid) != self._me:
            uid, gid = self._owner(member)
            os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        times = (member.mtime, member.mtime)
        os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        if not self._overlay:
            self._unmark(dir_fd, name)

    def _device(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        """Skip a device node: the kernel would refuse it, and /dev is never the image's."""
        self.skipped_devices += 1
        try:
            self._make_room(self._parent(parent), parent, name)
        except FileNotFoundError:
            pass

    def _hard_link(self, member: Member, parent: bytes, name: bytes, reader: TarReader) -> None:
        """Link to a file of this layer, or of one below, copied up first as overlayfs does.

        A link to a symbolic link becomes a second one with the same target: the kernel could
        link it, but the defence is simpler to see when only regular files are.
        """
        target = normalise(member.link)
        if not target:
            raise RlessError(f"hard link {_show(parent, name)} without a target")
        source_parent, _, source = target.rpartition(b"/")
        source_fd = os.dup(self._parent(source_parent))
        try:
            try:
                status = os.stat(source, dir_fd=source_fd, follow_symlinks=False)
            except FileNotFoundError:
                status = self._copy_up(source_fd, source_parent, source)
            if stat.S_ISLNK(status.st_mode):
                member.uid, member.gid = status.st_uid, status.st_gid
                member.mtime = status.st_mtime_ns
                link = os.readlink(source, dir_fd=source_fd)
                self._make_symlink(link, member, parent, name)
                return
            if not stat.S_ISREG(status.st_mode):
                raise RlessError(
                    f"hard link {_show(parent, name)} to {_show(b'', target)}, "
                    "which is not a regular file"
                )
            dir_fd = self._parent(parent)
            try:
                os.link(
                    source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False
                )
            except FileExistsError:
                there = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                    return  # linked to itself
                eaten = self._view.canonical(parent, name) + b"/"
                if self._view.canonical(source_parent, source).startswith(eaten):
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
                self._make_room(dir_fd, parent, name)
                dir_fd = self._parent(parent)
                os.link(
                    source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False
                )
            if not self._overlay:
                self._unmark(dir_fd, name)
        finally:
            os.close(source_fd)

    def _copy_up(self, dir_fd: int, parent: bytes, name: bytes) -> os.stat_result:
        """Copy a file that only a lower layer has into this one."""
        below = self._view.open_lower_file(self._view.canonical(parent, name))
        if below is None:
            raise RlessError(f"hard link to {_show(parent, name)}, which does not exist")
        try:
            status = os.fstat(below)
            self.bytes += status.st_size
            fd = os.open(name, _CREATE, stat.S_IMODE(status.st_mode) & 0o777, dir_fd=dir_fd)
            try:
                copied = 0
                while sent := os.sendfile(fd, below, copied, 1 << 30):
                    copied += sent
                if not self._single:
                    os.fchown(fd, status.st_uid, status.st_gid)
                    os.fchmod(fd, stat.S_IMODE(status.st_mode))
                self._set_xattrs(fd, xattrs.read(below))
                os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
                return os.fstat(fd)
            finally:
                os.close(fd)
        finally:
            os.close(below)

    def _root(self, member: Member) -> None:
        self.has_root = True
        if member.kind != DIRECTORY:
            raise RlessError("a layer replaces / by something that is not a directory")
        if not self._single:
            os.fchown(self._root_fd, *self._owner(member))
        os.fchmod(self._root_fd, member.mode & 0o1777)
        if member.xattrs is not None:
            self._set_xattrs(self._root_fd, member.xattrs)
        self._remember(b"", member.mode, member.mtime)

    # -- attributes --------------------------------------------------------------------------

    def _owner(self, member: Member) -> tuple[int, int]:
        """Return the member's owner if the map has both ids."""
        owner = (member.uid, member.gid)
        if owner not in self._known_owners:
            for kind, number, host in (
                ("uid", owner[0], self._idmap.host_uid(owner[0])),
                ("gid", owner[1], self._idmap.host_gid(owner[1])),
            ):
                if host is None:
                    raise RlessError(
                        f"{_show(b'', member.name)} belongs to {kind} {number}, "
                        "which your subordinate ids do not reach",
                        "ask the administrator for a larger range in /etc/subuid and /etc/subgid",
                    )
            self._known_owners.add(owner)
        return owner

    def _set_xattrs(self, fd: int, found: dict[bytes, bytes]) -> None:
        self.lost_xattrs += xattrs.write(fd, found, keep_capabilities=not self._single)

    def _copy_xattrs(self, lower_fd: int, dir_fd: int, name: bytes) -> None:
        found = xattrs.read(lower_fd)
        if found:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
            try:
                self._set_xattrs(fd, found)
            finally:
                os.close(fd)

    def _remember(self, path: bytes, mode: int, mtime: int) -> None:
        """Keep what a directory gets at the end: its time changes with each file put into it,

        and set-gid would pass on to the files made in it.
        """
        if self._single:
            mode &= 0o1777
        self._directories.pop(path, None)
        self._directories[path] = (mode, mtime)
        if len(self._directories) > _DEFERRED:
            oldest = next(iter(self._directories))
            self._finish_directory(oldest, *self._directories.pop(oldest))

    def _finish_directories(self) -> None:
        for path, (mode, mtime) in self._directories.items():
            self._finish_directory(path, mode, mtime)

    def _finish_directory(self, path: bytes, mode: int, mtime: int) -> None:
        try:
            fd = self._view.open_here(path)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # replaced by a later member
            raise
        try:
            if mode & 0o6000:
                os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    # -- whiteouts ---------------------------------------------------------------------------

    def _is_marker(self, parent: bytes, name: bytes) -> bool:
        """Act on a member whose name speaks of whiteouts; False: it is a file like others."""
        if any(part.startswith(WHITEOUT_PREFIX) for part in parent.split(b"/")):
            return True  # below a marker there is nothing
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        if name == OPAQUE_MARKER:
            self._parent(parent)
            self._set_opaque(self._view.canonical(parent, b""))
        elif not name.startswith(_META):
            self._whiteout(parent, name)
        return True

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        """Hide what the layers below have; act on names in the layer's own directory only."""
        victim = name[len(WHITEOUT_PREFIX) :]
        if victim in (b"", b".", b".."):
            raise RlessError(f"bad whiteout {_show(parent, name)}")
        dir_fd = self._parent(parent)
        try:
            status = os.stat(victim, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            # A whiteout is about the layers below; what this layer has stays.
            if stat.S_ISDIR(status.st_mode):
                self._set_opaque(self._view.canonical(parent, victim))
            return
        if self._overlay:
            os.mknod(victim, stat.S_IFCHR, 0, dir_fd=dir_fd)
        else:
            _mark(parent, name, dir_fd)
        self._view.forget_lower()

    def _set_opaque(self, path: bytes) -> None:
        fd = self._view.open_here(path)
        try:
            if self._overlay:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
            else:
                _mark(path, OPAQUE_MARKER, fd)
        finally:
            os.close(fd)
        self._view.set_opaque(path)

    def _unmark(self, dir_fd: int, name: bytes) -> bool:
        """Remove the `.wh.` file of a name that the layer itself has; tell if there was one."""
        try:
            os.unlink(WHITEOUT_PREFIX + name, dir_fd=dir_fd)
        except (FileNotFoundError, OSError) as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            return False
        return True


def normalise(name: bytes) -> bytes:
    """Return a member's name relative to the root, without empty and "." parts.

    Raises:
        RlessError: `..` in it, too long, or a NUL.
    """
    name = name.strip(b"/")
    if len(name) > limits.NAME_BYTES:
        raise RlessError(f"a file name of {len(name)} bytes: {_show(b'', name[:60])}…")
    if name[:1] == b"." or b"/." in name or b"//" in name:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise RlessError(f"a file name that leaves the layer: {_show(b'', name[:200])}")
        return b"/".join(parts)
    return name


def _mark(parent: bytes, name: bytes, dir_fd: int) -> None:
    """Make a whiteout in the form of an archive."""
    try:
        os.close(os.open(name, _CREATE, 0o600, dir_fd=dir_fd))
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        what = f"cannot keep {_show(parent, name)}, which hides a file of a lower layer"
        raise RlessError(what, limits.NO_WHITEOUTS) from error


def supports_overlay_whiteouts(dir_fd: int) -> bool:
    """Tell whether overlayfs' whiteouts can be kept in this directory, by trying."""
    name = b".probe"
    try:
        os.setxattr(dir_fd, UNION_XATTR, b"")  # else the node would stay, and the directory with it
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
        os.unlink(name, dir_fd=dir_fd)
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
        try:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)
    except OSError:
        return False
    finally:
        os.rmdir(name, dir_fd=dir_fd)
    return True


def _show(parent: bytes, name: bytes) -> str:
    path = parent + b"/" + name if parent else name
    return escape(path.decode("utf-8", "backslashreplace"))[:300]


def _failed(path: bytes, number: int) -> RlessError:
    what = f"cannot unpack {_show(b'', path)}"
    return RlessError(f"{what}: {os.strerror(number)}", limits.hint(number))
