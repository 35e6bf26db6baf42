"""What a pull that was interrupted had received of blobs, so that the next one goes on from there.

`partial/<digest>` in the store is the beginning of a blob, perhaps all of it, as it arrived;
nothing vouches for it but the digest that the whole has to have. Only Ctrl-C keeps one: what a
refused or broken pull has brought goes. It is taken out by the next pull of the blob, and
otherwise deleted by `prune`, or by a pull after a day.
"""

from __future__ import annotations

import contextlib
import os
import time

from rootless.linux.unnamed import unnamed_file
from rootless.paths import private_dir

_KEPT_SECONDS = 24 * 3600


def open_blob(scratch: str, digest: str | None) -> int:
    """Return a file to receive a blob into; it has the beginning where that is there.

    Args:
        scratch: the directory of an `InFlight`, in which the file is.

    Raises:
        OSError: ENOSPC, EDQUOT...
    """
    if digest is not None:
        mine = f"{scratch}/.partial-{os.urandom(8).hex()}"
        with contextlib.suppress(OSError):
            os.rename(_path(scratch, digest), mine)  # of two pulls one has it
            return os.open(mine, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    return unnamed_file(scratch)


def keep(scratch: str, digest: str, fd: int, size: int) -> None:
    """Give what was received of a blob its name, where the file system can do that.

    Args:
        fd: of `open_blob`. size: how many bytes of it are right.
    """
    if not size:
        return
    path = _path(scratch, digest)
    mine = f"{scratch}/.partial-{os.urandom(8).hex()}"
    with contextlib.suppress(OSError):
        os.ftruncate(fd, size)
        private_dir(os.path.dirname(path))
        # With a descriptor Python asks for linkat(2), which can follow; the path is absolute.
        os.link(f"/proc/self/fd/{fd}", mine, src_dir_fd=fd, follow_symlinks=True)
        os.rename(mine, path)


def collect(root: str, *, old_only: bool = False) -> int:
    """Delete what was kept; return how many bytes that were."""
    freed = 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"{root}/partial"):
            path = f"{root}/partial/{name}"
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if not old_only or time.time() - status.st_mtime > _KEPT_SECONDS:
                    os.unlink(path)
                    freed += status.st_size
    return freed


def _path(scratch: str, digest: str) -> str:
    """Return the file of a blob; an `InFlight` lies in the store's tmp/."""
    return f"{os.path.dirname(os.path.dirname(scratch))}/partial/{digest[7:]}"
