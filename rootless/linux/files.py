"""Files that are whole or not there: atomic writes, files without a name, mapped ones.

A write goes to a temporary file beside its target (or in a scratch directory of the same file
system), which then takes the target's name by rename(2) or link(2). So a reader sees the old
content or the new one, and SIGKILL leaves at most `NAME.RANDOM.PID.tmp`, whose pid tells whether
its writer is still alive.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

# Of file systems that cannot: NFS, FUSE and 9p; EISDIR is that of kernels that do not know it.
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
_CHUNK = 65536  # bytes: what is read by one call
_RENAME_EXCHANGE = 2
_PROT_READ = 1
_MAP_PRIVATE = 2
_MAP_FAILED = 2**64 - 1
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read(path: str) -> bytes:
    """Return what is in a regular file; small ones cost three system calls.

    Raises:
        OSError: as open(2) and read(2).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(fd, _CHUNK)
        while len(part) == _CHUNK:
            part = os.read(fd, _CHUNK)
            data += part
        return data
    finally:
        os.close(fd)


def write(
    path: str,
    data: bytes,
    *,
    mode: int = 0o600,
    durable: bool = False,
    owner: tuple[int, int] | None = None,
    scratch: str | None = None,
) -> None:
    """Write a file; what has the name is replaced as a whole.

    Args:
        mode: its mode, whatever the umask is.
        durable: the data is on disk before the name is: a power cut leaves the old content or
            the new one, never an empty file. Costs an fsync(2).
        owner: uid and gid that it gets.
        scratch: directory of the same file system for the temporary file, one that is cleared
            after a crash; by default that of `path`.

    Raises:
        OSError: with `path` as its filename. Nothing is left behind.

    Source: rename(2).
    """
    temporary = name_beside(path, scratch)
    try:
        _fill(temporary, data, mode, durable, owner)
        os.rename(temporary, path)
    except BaseException as error:
        _discard(temporary)
        if isinstance(error, OSError):  # write(2) knows no name, and the temporary one says nothing
            raise OSError(error.errno, error.strerror, path) from error
        raise


def write_new(path: str, data: bytes, *, mode: int = 0o600, durable: bool = False) -> bool:
    """Write a file that is whole at once, unless there is one: that stays, and False is returned.

    Raises:
        OSError: as `write`.

    Source: link(2), which takes nobody's place, unlike rename(2); open(2) on NFS, where a link
    whose answer was lost is reported as EEXIST.
    """
    temporary = name_beside(path)
    try:
        _fill(temporary, data, mode, durable, None)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return os.stat(temporary).st_nlink == 2
        return True
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        _discard(temporary)


def read_at(fd: int, size: int, offset: int, what: str) -> bytes:
    """Return bytes of a file that was named by somebody else, as os.pread does.

    Args:
        what: how errors name the file, fit to be printed.

    Raises:
        RlessError: it cannot be read: EIO of a broken disk, or of a file in /proc.
    """
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise RlessError(f"cannot read {what}: {error.strerror}") from error


def exchange(one: str, other: str) -> None:
    """Let two names of a file system change places; each stands for one or the other at any time.

    A file system that cannot do that (NFS, FUSE) takes steps: SIGKILL between them leaves what
    was `other` as `OTHER.RANDOM.PID.tmp`.

    Raises:
        OSError: as rename(2).

    Source: rename(2), RENAME_EXCHANGE.
    """
    from rootless.linux import ffi
    from rootless.linux.call import AT_FDCWD, libc

    names = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    number = ffi.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), one, None, other)
    between = name_beside(other)
    os.rename(other, between)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(between, other)
        raise
    os.rename(between, one)


def map_file(fd: int, size: int) -> memoryview:
    """Return the first `size` bytes of a file, to read; they stay mapped until the process ends.

    Without the module `mmap`, which keeps the descriptor open. A page costs only if it is read,
    and sixteen come by one fault. Whoever shortens the file meanwhile ends the process by SIGBUS:
    only for files that are replaced, never rewritten.

    Raises:
        SyscallError: EINVAL (the size is 0), EACCES, ENODEV.

    Source: mmap(2).
    """
    from rootless.linux import ffi
    from rootless.linux.call import failed, libc

    mmap = libc.mmap
    mmap.restype = ffi.c_ulong
    start: int = mmap(None, ffi.c_size_t(size), _PROT_READ, _MAP_PRIVATE, fd, ffi.c_long(0))
    if start == _MAP_FAILED:
        raise failed(f"mmap(fd {fd}, {size})")
    return memoryview((ffi.c_char * size).from_address(start)).toreadonly()


def default_mode() -> int:
    """Return the mode that the umask leaves a file which others may read."""
    return 0o666 & ~umask()


def umask() -> int:
    """Return the file mode creation mask of this process."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def name_beside(path: str, scratch: str | None = None) -> str:
    """Return the name of a file that is going to take a path, by rename(2)."""
    base = path if scratch is None else f"{scratch}/{os.path.basename(path)}"
    return f"{base}.{os.urandom(4).hex()}.{os.getpid()}.tmp"


def _fill(path: str, data: bytes, mode: int, durable: bool, owner: tuple[int, int] | None) -> None:
    fd = os.open(path, os.O_WRONLY | _NEW, 0o600)
    try:
        if owner is not None:
            os.fchown(fd, *owner)
        if mode != 0o600:
            os.fchmod(fd, mode)
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was not made, or it has its name


class Output:
    """A file that a user names, which appears under its name once it is complete.

    A `with` block; `fd` is to write to, and to read. A failure leaves what was there before. What
    is there and is no regular file (a pipe, /dev/null) is written to as it is.

    Args:
        path: a link in it is followed.
        mode: the mode of the file.
        durable: as for `write`.

    Raises:
        OSError: with `path` as its filename.

    Source: open(2), O_TMPFILE; where the file system has none, the file has a temporary name.
    """

    def __init__(self, path: str, *, mode: int = 0o600, durable: bool = False) -> None:
        self.path = path
        self.fd = -1
        self._mode = mode
        self._durable = durable
        self._direct = False
        self._temporary = ""

    def __enter__(self) -> Output:
        try:
            self._open()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def _open(self) -> None:
        try:
            kind = os.stat(self.path).st_mode
        except FileNotFoundError:
            kind = stat.S_IFREG
        else:
            self.path = os.path.realpath(self.path)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._direct = not stat.S_ISREG(kind)
        if self._direct:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            return
        try:
            directory = os.path.dirname(self.path) or "."
            self.fd = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
            self._temporary = name_beside(self.path)
            self.fd = os.open(self._temporary, os.O_RDWR | _NEW, 0o600)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._direct:
                self._appear()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(self.fd)
            if self._temporary:
                _discard(self._temporary)
        if isinstance(value, OSError):
            raise self._failed(value) from value

    def _appear(self) -> None:
        os.fchmod(self.fd, self._mode)
        if self._durable:
            os.fsync(self.fd)
        if not self._temporary:
            try:
                self._link(self.path)
                return
            except FileExistsError:
                pass  # a link replaces nothing: by another name, which a SIGKILL could leave
            name = name_beside(self.path)
            self._link(name)
            self._temporary = name
        os.rename(self._temporary, self.path)
        self._temporary = ""

    def _link(self, name: str) -> None:
        # With a descriptor Python calls linkat(2), which can follow; the source is absolute.
        os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=self.fd, follow_symlinks=True)

    def _failed(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, self.path)


def open_tmpfile(directory: str) -> int:
    """Return a new regular file (mode 0600) for reading and writing that has no name.

    It is gone with its last descriptor, whatever is killed. Where the file system has no
    O_TMPFILE, the file has a name for the time between two calls: make it in a directory that is
    cleared after a crash.

    Raises:
        OSError: ENOSPC, EDQUOT, EROFS, EACCES...

    Source: open(2), O_TMPFILE.
    """
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
    path = f"{directory}/.unnamed-{os.urandom(8).hex()}"
    fd = os.open(path, os.O_RDWR | _NEW, 0o600)
    try:
        os.unlink(path)
    except BaseException:
        os.close(fd)
        raise
    return fd
