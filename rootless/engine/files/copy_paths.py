"""The two file systems of a `cp`: how paths on each are read, resolved and refused."""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from rootless.errors import NOT_FOUND, RlessError, SyscallError, escape
from rootless.linux.openat2 import LINKS, RESOLVE_NO_SYMLINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Path:
    """An absolute path, cleaned, and the meaning of its ending.

    Attributes:
        text: without `.`, `..`, double and last slashes; b"/" for the root.
        contents: it ended in `/.`: the contents of the directory. slash: it must be a directory.
    """

    __slots__ = ("contents", "slash", "text")

    def __init__(self, path: str, base: str = "/") -> None:
        raw = os.fsencode(path)
        joined = posixpath.join(os.fsencode(base), raw)
        self.text = b"/" + posixpath.normpath(joined).lstrip(b"/")
        self.contents = raw.endswith(b"/.") or raw == b"." or self.text == b"/"
        self.slash = self.contents or raw.endswith(b"/") or not raw

    @property
    def name(self) -> bytes:
        """Return the last component; b"" for the root."""
        return posixpath.basename(self.text)

    def __str__(self) -> str:
        return os.fsdecode(self.text)


class Spot:
    """A name in a directory that is held open.

    Attributes:
        dir_fd: the directory; -1: the spot is the root itself, which `fd` is open at.
        status: None: there is nothing of that name.
    """

    __slots__ = ("dir_fd", "name", "status")

    def __init__(self, dir_fd: int, name: bytes, status: os.stat_result | None) -> None:
        self.dir_fd = dir_fd
        self.name = name
        self.status = status

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    def open_directory(self) -> int:
        """Open the directory that it is, not a link to one."""
        return openat2(self.dir_fd, self.name, _TOP, resolve=RESOLVE_NO_SYMLINKS)


class Side:
    """One of the two file systems: it resolves paths, and words the error for what is missing."""

    def __init__(
        self,
        open_directory: Callable[[bytes], int],
        missing: Callable[[str], RlessError],
        follows: Callable[[os.stat_result, os.stat_result], bool] = lambda directory, link: True,
    ):
        """Make a side.

        Args:
            follows: whether a last link in a directory may be followed.
        """
        self._open = open_directory
        self._follows = follows
        self.missing = missing

    def find(self, path: Path, follow: bool) -> Spot:
        """Return where a path leads to; links on the way are followed on this side.

        Args:
            follow: the last link too.

        Raises:
            RlessError: a directory on the way is missing, or the last link must not be followed.
        """
        text = path.text
        for _ in range(LINKS):
            parent, name = posixpath.split(text)
            try:
                dir_fd = self._open(parent)
            except (SyscallError, OSError) as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    raise self.missing(os.fsdecode(parent)) from error
                raise refused(os.fsdecode(parent), error) from error
            # "." and ".." come from links only, and are directories.
            name = name or b"."
            try:
                status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            except FileNotFoundError:
                return Spot(dir_fd, name, None)
            except OSError as error:
                raise refused(os.fsdecode(text), error) from error
            if not stat.S_ISLNK(status.st_mode) or not follow:
                return Spot(dir_fd, name, status)
            if not self._follows(os.fstat(dir_fd), status):
                raise RlessError(
                    f"{escape(os.fsdecode(text))} is a link of uid {status.st_uid} in a directory "
                    "that all can write to",
                    "it is not followed: name what it leads to, if you trust that",
                    1,
                )
            target = os.readlink(name, dir_fd=dir_fd)
            os.close(dir_fd)
            text = posixpath.join(parent, target)
        raise RlessError(f"{escape(str(path))}: too many links", None, 1)

    def source(self, path: Path, follow: bool) -> Spot:
        """Return what is to be copied.

        Raises:
            RlessError: there is no such file.
        """
        spot = self.find(path, follow or path.slash)
        if spot.status is None:
            raise self.missing(str(path))
        if path.slash and not spot.is_directory:
            raise RlessError(f"{escape(str(path))}: not a directory", None, 1)
        return spot

    def destination(
        self, path: Path, source: Path, is_directory: bool, shown_as: str
    ) -> tuple[int, bytes | None]:
        """Return the directory to write in, and the name to write; None: its own contents.

        Raises:
            RlessError: this kind of source cannot go there.
        """
        spot = self.find(path, True)
        if spot.is_directory:
            into = is_directory and source.contents
            return spot.open_directory(), None if into else source.name
        if spot.status is not None:
            if not stat.S_ISREG(spot.status.st_mode):
                raise RlessError(
                    f'destination "{escape(shown_as)}" must be a directory or a regular file',
                    None,
                    1,
                )
            if is_directory:
                raise RlessError(f"cannot copy directory to the file {escape(shown_as)}", None, 1)
            if path.slash:
                raise RlessError(f"{escape(shown_as)}: not a directory", None, 1)
        elif path.slash and not is_directory:
            raise RlessError(f"{escape(shown_as)}: no such directory", None, 1, kind=NOT_FOUND)
        return spot.dir_fd, spot.name


def refused(path: str, error: OSError | SyscallError) -> RlessError:
    return RlessError(f"{escape(path)}: {os.strerror(error.errno or 0)}", None, 1)


def container_side(root_fd: int, name: str) -> Side:
    def missing(path: str) -> RlessError:
        return RlessError(
            f"Could not find the file {escape(path)} in container {name}", None, 1, NOT_FOUND
        )

    return Side(lambda path: openat2(root_fd, path, _PATH), missing)


def host_side(text: str) -> Side:
    def missing(path: str) -> RlessError:
        return RlessError(text.format(escape(path)), None, 1)

    return Side(lambda path: os.open(path, _PATH), missing, _follows)


def _follows(directory: os.stat_result, link: os.stat_result) -> bool:
    """Tell whether the host's kernel would follow a last link, whatever its settings are.

    Source: fs.protected_symlinks of Linux, Documentation/admin-guide/sysctl/fs.rst.
    """
    sticky = stat.S_ISVTX | stat.S_IWOTH
    return directory.st_mode & sticky != sticky or link.st_uid in (os.getuid(), directory.st_uid)
