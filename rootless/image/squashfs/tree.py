"""Read single files of a root file system that is a directory, as `reader` reads those of an image.

The tree is hostile: no link of it leads out of it, and what is no regular file is not waited for.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError, SyscallError, escape
from rootless.linux.openat2 import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Tree:
    """A directory with the files of an image."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            RlessError: it cannot be opened, or is no directory.
        """
        self._what = escape(path)
        try:
            self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise RlessError(f"the root file system {self._what} does not exist") from error
        except OSError as error:
            raise RlessError(
                f"cannot open the root file system {self._what}: {error.strerror}"
            ) from error

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, path: str, most: int) -> bytes | None:
        """Return the content of a file; None: there is no regular file that we may read.

        Args:
            path: absolute in the image.
            most: bytes that it may have.

        Raises:
            RlessError: it is larger.
        """
        try:
            fd = openat2(self._fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except SyscallError:
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            content = file.read(most + 1)
        if len(content) > most:
            raise RlessError(f"{self._what}: {path} has more than {most} bytes")
        return content

    def exists(self, path: str) -> bool:
        """Tell whether there is anything of that name."""
        try:
            os.close(openat2(self._fd, path, os.O_PATH))
        except SyscallError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        """Return the names in a directory; none if it is no directory that we may read."""
        try:
            fd = openat2(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError:
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)
