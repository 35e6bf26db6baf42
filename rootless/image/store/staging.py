"""Staging of new layers and images: directories in tmp/, locks, and cleaning up after a crash.

A pull works in a directory of its own under tmp/ and moves results out by rename. Beside the
directory is a lock file that its owner, children included, holds as long as it lives. So "can I
lock it?" answers "is its owner dead?" even after SIGKILL, without any list that could be wrong.
Where the file system has no locks (some NFS), the owner's pid, start time and boot id in that file
answer, and two pulls of one layer both work: the first rename wins.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.store.ownership import delete_any
from rootless.linux.locks import is_at, lock, open_lock, unlock
from rootless.linux.procfs import start_time
from rootless.paths import boot_id, private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_FOREIGN_SECONDS = 24 * 3600  # leftovers of another host on a shared home wait that long


class Staging:
    """A directory in tmp/ for the time of a `with` block; it is deleted at the end."""

    def __init__(self, root: str) -> None:
        self._tmp = _scratch_root(root)
        self.path = ""
        self._lock = -1

    def __enter__(self) -> Staging:
        private_dir(self._tmp)
        while True:
            name = f"{self._tmp}/{os.getpid()}-{os.urandom(6).hex()}"
            fd = _open_lock(f"{name}.lock")
            lock(fd, wait=False)
            if is_at(fd, f"{name}.lock"):
                break
            os.close(fd)  # a cleaner took it for dead before it was locked
        self._lock = fd
        self.path = name
        try:
            os.write(fd, json.dumps(_identity()).encode())
            os.mkdir(name, 0o700)
        except OSError as error:
            os.unlink(f"{name}.lock")
            os.close(fd)
            raise RlessError(
                f"cannot write to {self._tmp}: {error.strerror}", limits.hint(error.errno)
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            try:
                delete_any(self._tmp, os.path.basename(self.path))
            except RlessError:
                # After Ctrl-C the child that fills it may be dying only now.
                time.sleep(0.3)
                delete_any(self._tmp, os.path.basename(self.path))
            os.unlink(f"{self.path}.lock")
        except (RlessError, OSError) as error:
            # The block's own failure matters more; the next command tries again.
            log.warn(f"{self.path} could not be deleted: {error}")
        finally:
            os.close(self._lock)


def clear_leftovers(root: str) -> int:
    """Delete what killed commands left in tmp/ and locks/; return how many trees there were."""
    directory = _scratch_root(root)
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return 0
    cleared = 0
    for name in sorted({entry.removesuffix(".lock") for entry in entries}):
        try:
            if os.path.lexists(f"{directory}/{name}.lock"):
                cleared += _clear(directory, name)
            else:
                # An owner has its lock file before and after its directory: this one has none.
                delete_any(directory, name)
                cleared += 1
        except (RlessError, OSError) as error:
            log.warn(f"a leftover of a killed command could not be deleted: {error}")
    _clear_locks(f"{root}/locks")
    _clear_locks(f"{root}/build/locks")
    return cleared


def _clear_locks(directory: str) -> None:
    """Delete the files of locks that nobody holds; whoever waits for one notices."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            if lock(fd, wait=False) and is_at(fd, path):
                os.unlink(path)
            os.close(fd)


def _scratch_root(root: str) -> str:
    return f"{root}/tmp"  # noqa: S108  # below the private store


def _clear(directory: str, name: str) -> bool:
    """Delete one leftover if its owner is dead."""
    path = f"{directory}/{name}.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        locked = lock(fd, wait=False)
        if locked is False or (locked is None and _is_alive(fd)):
            return False
        if not is_at(fd, path):
            return False
        delete_any(directory, name)
        os.unlink(path)
        return True
    finally:
        os.close(fd)


def _open_lock(path: str) -> int:
    try:
        return open_lock(path)
    except OSError as error:
        raise RlessError(
            f"cannot write {path}: {error.strerror}", limits.hint(error.errno)
        ) from error


def _identity() -> dict[str, object]:
    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "boot": boot_id(),
        "pid": pid,
        "start": start_time(pid),
    }


def _is_alive(fd: int) -> bool:
    """Tell by the text of a lock file whether its owner lives; without locks."""
    try:
        owner = json.loads(os.pread(fd, 4096, 0) or b"{}")
        if owner.get("host") != os.uname().nodename:
            return time.time() - os.fstat(fd).st_mtime < _FOREIGN_SECONDS
        if owner.get("boot") != boot_id():
            return False
        return bool(start_time(int(owner["pid"])) == owner["start"])
    except (ValueError, KeyError, AttributeError):
        # Not yet written, or lost: only age tells.
        return time.time() - os.fstat(fd).st_mtime < _FOREIGN_SECONDS
    except OSError:
        return False


class LayerLocks:
    """Locks on layers that are about to be made, so that others wait and then share them."""

    def __init__(self, root: str) -> None:
        import resource

        self._directory = f"{root}/locks"
        self._held: list[tuple[int, str]] = []
        # A descriptor for each layer, and one for what comes of it; a container that is run
        # afterwards must not inherit the higher limit.
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise_descriptor_limit()

    def take(self, chain: str) -> bool:
        """Lock one layer; tell whether somebody else had it meanwhile.

        Always from the bottom of an image to its top: two images share only a lower part, so
        nobody waits in a circle.
        """
        private_dir(self._directory)
        path = f"{self._directory}/{chain[7:]}"
        waited = False
        while True:
            fd = _open_lock(path)
            if lock(fd, wait=False) is False:
                if not waited:
                    log.debug(f"waiting for another pull of layer {escape(chain)[7:19]}")
                waited = True
                lock(fd)
            if is_at(fd, path):
                self._held.append((fd, path))
                return waited
            os.close(fd)

    def release(self) -> None:
        """Give all locks back; their files go, so that none pile up."""
        for fd, path in self._held:
            with contextlib.suppress(OSError):
                os.unlink(path)
                # Not only by closing: a child that was forked meanwhile would still hold it.
                unlock(fd)
            os.close(fd)
        self._held = []
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit has: one a layer is held."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def store_lock(root: str, *, exclusive: bool = False) -> Iterator[bool]:
    """Hold the lock of the whole store: pulls share it, deletion of layers needs it alone.

    Yields whether it is held; an exclusive one is not waited for.
    """
    private_dir(root)
    fd = _open_lock(f"{root}/lock")
    try:
        locked = lock(fd, shared=not exclusive, wait=not exclusive)
        if locked is None and exclusive:
            locked = not _others_are_at_work(root)
        yield locked is not False
    finally:
        os.close(fd)


def _others_are_at_work(root: str) -> bool:
    """Tell by the identities in tmp/, where there are no locks, whether another command lives."""
    directory = _scratch_root(root)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if not name.endswith(".lock") or name.startswith(f"{os.getpid()}-"):
                continue
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _is_alive(fd):
                        return True
                finally:
                    os.close(fd)
    return False
