"""Mount points that a RUN needs and the image lacks: made before it, and gone after it.

The runtime makes the places of its mounts where there are none, and they would become a part of the
image. So they are made here first, and noted. After the RUN each one is removed that is still empty
and still the same, by descriptor and through no link (CVE-2024-23652). A directory that was only
copied up for them (overlayfs) is removed from the upper directory as well, if nothing else has
changed it: so `RUN true` makes an empty layer.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import SyscallError
from rootless.linux.openat2 import BENEATH, LINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # mode, uid, gid, mtime in nanoseconds, extended attributes
    Look = tuple[int, int, int, int, dict[str, bytes]]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Stubs:
    """The mount points of one RUN.

    Attributes:
        made: their paths without links, relative to the root, parents first.
        in_root: they are removed from the root as long as it is mounted; else from the upper
            directory, once it is not.
    """

    def __init__(self, root: str, upper: str | None) -> None:
        """Take the tree before the RUN; nobody else changes it yet.

        Args:
            root: the mounted tree.
            upper: the directory of the kernel's overlay that gets its changes, empty so far.
        """
        self.made: list[str] = []
        self._root = root
        self._tree = upper or root
        self.in_root = upper is None
        self._inodes: dict[str, int] = {}
        self._touched: dict[str, Look] = {}

    def make(self, places: Iterable[tuple[str, bool]]) -> None:
        """Make what is missing.

        Args:
            places: (path, whether it is a directory), in the order in which they are mounted; what
                lies in a mount is not among them.

        Raises:
            SyscallError: a component is a file; links in a circle.
        """
        root_fd = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._real = os.readlink(f"/proc/self/fd/{root_fd}")
            for path, directory in places:
                self._make(root_fd, path, directory, LINKS)
        finally:
            os.close(root_fd)
        for path in self.made:
            self._inodes[path] = os.lstat(f"{self._tree}/{path}").st_ino
        if not self.in_root:
            self._note_copied()

    def _note_copied(self) -> None:
        """Note how the directories look that overlayfs has copied up for the stubs."""
        for path in self.made:
            parent = os.path.dirname(path)
            while parent and parent not in self._touched and parent not in self._inodes:
                fd = os.open(f"{self._tree}/{parent}", _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                self._touched[parent] = _look(fd)
                os.close(fd)
                parent = os.path.dirname(parent)

    def _make(self, root_fd: int, path: str, directory: bool, links: int) -> None:
        try:
            os.close(openat2(root_fd, path, os.O_PATH))
            return  # as nearly always
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        names = [name for name in path.split("/") if name not in ("", ".")]
        done = ""
        current = openat2(root_fd, "/", _DIRECTORY)
        try:
            for index, name in enumerate(names):
                done += f"/{name}"
                last = index == len(names) - 1
                flags = os.O_PATH if last else _DIRECTORY
                try:
                    following = openat2(root_fd, done, flags)
                except SyscallError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    try:
                        target = os.readlink(name, dir_fd=current)
                    except OSError as failure:
                        if failure.errno != errno.ENOENT:
                            raise SyscallError(f"readlink({done})", failure.errno or 0) from failure
                        self._add(current, name, directory or not last)
                    else:  # it dangles: what it points to is made, as the runtime does
                        if not links:
                            raise SyscallError(f"open({done})", errno.ELOOP) from error
                        whole = "/".join([target, *names[index + 1 :]])
                        if not target.startswith("/"):
                            whole = f"{done.rpartition('/')[0]}/{whole}"
                        self._make(root_fd, whole, directory, links - 1)
                        return
                    following = openat2(root_fd, done, flags)
                os.close(current)
                current = following
        finally:
            os.close(current)

    def _add(self, parent: int, name: str, directory: bool) -> None:
        """Make one, and give the directory that it is in its time back."""
        before = os.fstat(parent)
        where = os.readlink(f"/proc/self/fd/{parent}")[len(self._real) :]
        try:
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
                os.chmod(name, 0o755, dir_fd=parent)  # whatever the umask
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
        except OSError as error:
            raise SyscallError(f"make {where}/{name}", error.errno or 0) from error
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.made.append(f"{where}/{name}".strip("/"))

    def remove(self) -> None:
        """Remove those that nothing was made of; see `in_root` for when."""
        tree_fd = os.open(self._tree, _DIRECTORY | os.O_CLOEXEC)
        try:
            for path in reversed(self.made):
                self._remove(tree_fd, path, self._inodes[path])
            for path in sorted(self._touched, key=lambda path: path.count("/"), reverse=True):
                self._forget(tree_fd, path, self._touched[path])
        finally:
            os.close(tree_fd)

    def _remove(self, tree_fd: int, path: str, inode: int) -> None:
        parent, _, name = path.rpartition("/")
        try:
            fd = openat2(tree_fd, parent or ".", _DIRECTORY, resolve=BENEATH)
        except SyscallError:
            return  # the RUN has put something else in the way
        try:
            before = os.fstat(fd)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if status.st_ino != inode:
                return
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=fd)
            elif stat.S_ISREG(status.st_mode) and not status.st_size:
                os.unlink(name, dir_fd=fd)
            else:
                return
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        except OSError:
            pass  # gone, or not empty: it is the RUN's now
        finally:
            os.close(fd)

    def _forget(self, tree_fd: int, path: str, before: Look) -> None:
        """Remove a copied-up directory from the upper one if it is as it was, with nothing in it."""
        parent, _, name = path.rpartition("/")
        try:
            fd = openat2(tree_fd, path, _DIRECTORY, resolve=BENEATH)
        except SyscallError:
            return
        try:
            same = _look(fd) == before
        finally:
            os.close(fd)
        if not same:
            return
        fd = openat2(tree_fd, parent or ".", _DIRECTORY, resolve=BENEATH)
        try:
            above = os.fstat(fd)
            os.rmdir(name, dir_fd=fd)
            os.utime(fd, ns=(above.st_atime_ns, above.st_mtime_ns))
        except OSError:
            pass  # there is something in it
        finally:
            os.close(fd)


def _look(fd: int) -> Look:
    status = os.fstat(fd)
    names = [name for name in os.listxattr(fd) if name != "user.overlay.impure"]
    xattrs = {name: os.getxattr(fd, name) for name in names}
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs
