"""Files without a name: gone with their last descriptor, whatever is killed."""

from __future__ import annotations

import errno
import os

# Of file systems that cannot: NFS, FUSE and 9p; EISDIR is that of kernels that do not know it.
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


def open_tmpfile(directory: str) -> int:
    """Return a new regular file (mode 0600) for reading and writing that has no name.

    Where the file system has no O_TMPFILE, the file has a name for the time between two calls:
    make it in a directory that is cleared after a crash.

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
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
    except BaseException:
        os.close(fd)
        raise
    return fd
