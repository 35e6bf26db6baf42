"""Resolve names in a layer that is being unpacked, together with the layers below it.

The kernel resolves names within one directory, but a layer's names also refer to all layers below.
This module walks one component at a time, as overlayfs will see them once mounted: this layer
first, then those below from the top, until a whiteout or an opaque directory hides the rest. Every
open is by openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS; links are expanded here, relative
to the image's root.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError, escape
from rootless.image.model import limits
from rootless.linux.openat2 import BENEATH, LINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # Makes one implied directory: (parent descriptor, name, path, what is below or None).
    Imply = Callable[[int, bytes, bytes, int | None], None]

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = b"user.overlay.opaque"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PATH = os.O_PATH | os.O_NOFOLLOW
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_CACHED_DIRECTORIES = 200
_CACHED_STACKS = 10_000


class LayerLookup:
    """The view of one layer over others.

    Args:
        root_fd: the directory of the layer that is being written.
        lowers: returns descriptors of the layers below, bottom first. It is called only when they
            are needed, because they may still be in the making.
    """

    def __init__(self, root_fd: int, lowers: Callable[[], Sequence[int]]) -> None:
        self._root_fd = root_fd
        self._find_lowers = lowers
        self._opened: Sequence[int] | None = None
        self._opaque: set[bytes] = set()
        # What a member's parent was written as -> (descriptor, path without links).
        self._directories: dict[bytes, tuple[int, bytes]] = {b"": (root_fd, b"")}
        # Path -> which lower layers show through there, top first.
        self._stacks: dict[bytes, list[int]] = {}

    @property
    def _lowers(self) -> Sequence[int]:
        if self._opened is None:
            self._opened = self._find_lowers()
        return self._opened

    def close(self) -> None:
        """Close the descriptors of cached directories; the root stays open."""
        self.forget()

    # -- this layer --------------------------------------------------------------------------

    def cached(self, path: bytes) -> int | None:
        """Return the descriptor of a directory that was just used."""
        found = self._directories.get(path)
        return None if found is None else found[0]

    def forget(self) -> None:
        """Drop all cached directories: a directory or a link on some way was replaced."""
        for fd, _ in self._directories.values():
            if fd != self._root_fd:
                os.close(fd)
        self._directories = {b"": (self._root_fd, b"")}

    def forget_lower(self) -> None:
        """Drop what is known about the layers below: a whiteout hides some of it now."""
        self._stacks.clear()

    def set_opaque(self, path: bytes) -> None:
        """Note that nothing below this directory of the layer shows through."""
        self._opaque.add(path)
        self._stacks.clear()

    def canonical(self, parent: bytes, name: bytes) -> bytes:
        """Return the path without links of `name` in a directory that `open_directory` gave."""
        found = self._directories.get(parent)
        if found is None:
            raise RlessError("internal error: a directory was used before it was opened")
        if not name:
            return found[1]
        return found[1] + b"/" + name if found[1] else name

    def open_here(self, path: bytes) -> int:
        """Open a directory of this layer by its path without links.

        Raises:
            SyscallError: ENOENT, ENOTDIR or ELOOP: it is no longer that.
        """
        return openat2(self._root_fd, path or b".", _DIRECTORY, resolve=BENEATH)

    def open_directory(self, path: bytes, imply: Imply) -> int:
        """Return a descriptor of the directory `path`, kept here; make what the layer lacks.

        Raises:
            RlessError: a component is neither a directory nor a link to one, or links loop.
        """
        found = self._directories.get(path)
        if found is not None:
            return found[0]
        canonical = path
        try:
            fd = openat2(self._root_fd, path, os.O_PATH | os.O_DIRECTORY, resolve=BENEATH)
        except SyscallError as error:
            if error.errno not in _ABSENT:
                raise
            canonical = self._walk(path, imply)
            fd = openat2(
                self._root_fd, canonical or b".", os.O_PATH | os.O_DIRECTORY, resolve=BENEATH
            )
        if len(self._directories) >= _CACHED_DIRECTORIES:
            self.forget()
        self._directories[path] = (fd, canonical)
        return fd

    def _walk(self, path: bytes, imply: Imply) -> bytes:
        """Follow `path` through this layer and those below; return the path without links."""
        todo = path.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del done[-1:]
                continue
            target = self._step(done, name, path, imply)
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > LINKS:
                raise RlessError(f"{_show(path)}: too many symbolic links on the way")
            if target.startswith(b"/"):
                done = []
            todo.extend(target.split(b"/")[::-1])
            if len(todo) + len(done) > limits.NAME_BYTES:
                raise RlessError(f"{_show(path)}: its symbolic links make it too long")
        return b"/".join(done)

    def _step(self, done: list[bytes], name: bytes, path: bytes, imply: Imply) -> bytes | None:
        """Make sure that a component is a directory here; or return the target of a link."""
        parent = b"/".join(done)
        here = b"/".join((*done, name))
        dir_fd = self.open_here(parent)
        try:
            try:
                status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            except FileNotFoundError:
                return self._step_below(dir_fd, name, here, path, imply)
            if stat.S_ISDIR(status.st_mode):
                return None
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=dir_fd)
            if not is_whiteout(status):
                raise RlessError(f"{_show(path)}: {_show(here)} is not a directory")
            # Removed from below and made anew: nothing below shows through.
            os.unlink(name, dir_fd=dir_fd)
            imply(dir_fd, name, here, None)
            fd = self.open_here(here)
            try:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
            finally:
                os.close(fd)
            self.set_opaque(here)
            return None
        finally:
            os.close(dir_fd)

    def _step_below(
        self, dir_fd: int, name: bytes, here: bytes, path: bytes, imply: Imply
    ) -> bytes | None:
        if _exists(dir_fd, WHITEOUT_PREFIX + name):
            os.unlink(WHITEOUT_PREFIX + name, dir_fd=dir_fd)
            imply(dir_fd, name, here, None)
            fd = self.open_here(here)
            try:
                os.close(os.open(OPAQUE_MARKER, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
            finally:
                os.close(fd)
            self.set_opaque(here)
            return None
        found = self._find_below(here)
        if found is None:
            imply(dir_fd, name, here, None)
            return None
        fd, status = found
        try:
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(b"", dir_fd=fd)
            if not stat.S_ISDIR(status.st_mode):
                raise RlessError(f"{_show(path)}: {_show(here)} is not a directory")
            readable = os.open(b".", _DIRECTORY, dir_fd=fd)
            try:
                imply(dir_fd, name, here, readable)
            finally:
                os.close(readable)
            return None
        finally:
            os.close(fd)

    # -- the layers below --------------------------------------------------------------------

    def open_lower_file(self, path: bytes) -> int | None:
        """Open the regular file that the layers below show at a path without links."""
        found = self._find_below(path)
        if found is None:
            return None
        fd, status = found
        try:
            if not stat.S_ISREG(status.st_mode):
                return None
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def _find_below(self, path: bytes) -> tuple[int, os.stat_result] | None:
        """Return what the layers below show at `path`: an O_PATH descriptor and its status."""
        parent, _, name = path.rpartition(b"/")
        for index in self._stack(parent):
            try:
                fd = openat2(self._lowers[index], path, _PATH, resolve=BENEATH)
            except SyscallError as error:
                if error.errno not in _ABSENT:
                    raise
                if self._is_hidden(index, parent, name):
                    return None
                continue
            status = os.fstat(fd)
            if is_whiteout(status):
                os.close(fd)
                return None
            return fd, status
        return None

    def _is_hidden(self, index: int, parent: bytes, name: bytes) -> bool:
        """Tell whether a lower layer has a `.wh.` file for that name."""
        marker = parent + b"/" + WHITEOUT_PREFIX + name if parent else WHITEOUT_PREFIX + name
        try:
            os.close(openat2(self._lowers[index], marker, _PATH, resolve=BENEATH))
        except SyscallError as error:
            if error.errno not in _ABSENT:
                raise
            return False
        return True

    def _stack(self, path: bytes) -> list[int]:
        """Return which lower layers contribute to the directory `path`, top first."""
        found = self._stacks.get(path)
        if found is not None:
            return found
        if len(self._stacks) > _CACHED_STACKS:
            self._stacks.clear()
        stack = self._stacks.get(b"")
        if stack is None:
            below = range(len(self._lowers) - 1, -1, -1)
            stack = self._stacks[b""] = self._contributing(below, b"", b"", b"")
        done = b""
        for name in path.split(b"/") if path else ():
            parent, done = done, done + b"/" + name if done else name
            known = self._stacks.get(done)
            stack = self._contributing(stack, parent, name, done) if known is None else known
            self._stacks[done] = stack
        return stack

    def _contributing(
        self, candidates: Sequence[int], parent: bytes, name: bytes, path: bytes
    ) -> list[int]:
        """Return those of the candidates whose directory `path` shows through."""
        stack: list[int] = []
        if path in self._opaque:
            return stack
        for index in candidates:
            try:
                fd = openat2(self._lowers[index], path or b".", _PATH, resolve=BENEATH)
            except SyscallError as error:
                if error.errno not in _ABSENT:
                    raise
                if name and self._is_hidden(index, parent, name):
                    break
                continue
            try:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    break
                stack.append(index)
                readable = os.open(b".", _DIRECTORY, dir_fd=fd)
                try:
                    if is_opaque(readable):
                        break
                finally:
                    os.close(readable)
            finally:
                os.close(fd)
        return stack


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether a file is overlayfs' mark of a deleted one: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Tell whether a directory, open for reading, hides what the layers below have in it."""
    if _exists(fd, OPAQUE_MARKER):
        return True
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _exists(dir_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except (FileNotFoundError, OSError) as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def _show(path: bytes) -> str:
    return escape(path.decode("utf-8", "backslashreplace"))[:300]
