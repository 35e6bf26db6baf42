"""Where rless keeps things: the storage on disk and the volatile runtime directory.

Both are private: owned by the caller, mode 0700, never a link. A directory that is not so is
refused, because on a shared machine somebody else may have planted it.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless import config
from rootless.errors import RlessError

# policy.json, which says which images are accepted, of a user and of the system.
OWN_POLICY = "~/.config/containers/policy.json"
SYSTEM_POLICY = "/etc/containers/policy.json"

NO_ROOM = "free some space, or set RLESS_STORAGE to a place with room"


def hint_of(number: int | None) -> str | None:
    """Return what to do about an errno of writing that says that there is no room, or None."""
    return NO_ROOM if number in (errno.ENOSPC, errno.EDQUOT) else None


def _home() -> str:
    path = config.home()
    if path is None:
        raise RlessError(
            f"no home directory: HOME is unset and uid {os.getuid()} has no passwd entry",
            "set RLESS_STORAGE to a directory of yours",
        )
    return path


def storage_root() -> str:
    """Return the directory of images and containers, made if absent.

    $RLESS_STORAGE, else `root` of the configuration, else $XDG_DATA_HOME/rless, else
    ~/.local/share/rless.

    Raises:
        RlessError: it cannot be made, is not ours or is open to others.
    """
    # As bytes: os.environ encodes and decodes, 10 us for each of the hundreds of calls of a `ps`.
    asked = tuple(map(os.environb.get, _STORAGE_VARIABLES))
    if asked in _storage:
        return _storage[asked]
    path = os.environ.get("RLESS_STORAGE") or config.get("storage", "root") or default_root()
    path = os.path.abspath(path)
    private_dir(path, "set RLESS_STORAGE to a directory of yours")
    _storage[asked] = path
    return path


def default_root() -> str:
    """Return the directory that `storage_root` is where nothing says otherwise.

    Raises:
        RlessError: there is no home directory.
    """
    data = os.environ.get("XDG_DATA_HOME", "")
    return f"{data}/rless" if data.startswith("/") else f"{_home()}/.local/share/rless"


def additional_stores() -> tuple[tuple[str, bool], ...]:
    """Return the read-only image stores that are looked in too: (directory, is it ours).

    $RLESS_ADDITIONAL_STORES (directories joined by colons), else `additional-stores` of the
    configuration. What is not there is passed over: a share that this node has not mounted.

    A store of our own may be open to readers, and so may one of root, whose word is good for
    programs anyway. Of anybody else's, or where others can write, an image could be replaced by
    another with a program that steals our files: refused.

    Raises:
        RlessError: one cannot be trusted.
    """
    given = os.environ.get("RLESS_ADDITIONAL_STORES")
    if given not in _additional:
        if given is None:
            asked = config.get("storage", "additional-stores") or []
        else:
            asked = [path for path in given.split(":") if path]
        found = [(path, _is_trusted(path)) for path in asked]
        _additional[given] = tuple((path, mine) for path, mine in found if mine is not None)
    return _additional[given]


def _is_trusted(path: str) -> bool | None:
    """Tell whether an additional store is ours (True) or root's (False); None: not there."""
    what = f"the additional store {path}"
    if not path.startswith("/"):
        raise RlessError(f"{what} is not an absolute path")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RlessError(f"{what}: {error.strerror}", "take it out of the list") from error
    if not stat.S_ISDIR(status.st_mode):
        raise RlessError(f"{what} is not a directory", "give the directory itself, not a link")
    check_trusted(status, what, path)
    return status.st_uid == os.getuid()


def check_trusted(status: os.stat_result, what: str, path: str) -> None:
    """Refuse what could replace an image: what is neither ours nor root's, or open to others.

    Args:
        status: of a file, a directory or a link.
        what: how the error calls it.

    Raises:
        RlessError: it cannot be trusted.
    """
    if status.st_uid not in (0, os.getuid()):
        raise RlessError(
            f"{what} belongs to uid {status.st_uid}, neither to you nor to root",
            "its owner could replace images",
        )
    if status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode):
        raise RlessError(
            f"{what} can be written by others (mode {status.st_mode & 0o7777:04o})",
            f"its owner must run: chmod go-w {path}",
        )


# What was found and checked, by what it depends on: asked for at every step of a run.
_STORAGE_VARIABLES = tuple(b"RLESS_STORAGE XDG_DATA_HOME HOME RLESS_CONFIG XDG_CONFIG_HOME".split())
_storage: dict[tuple[bytes | None, ...], str] = {}
_additional: dict[str | None, tuple[tuple[str, bool], ...]] = {}
_boot: list[str] = []


def boot_id() -> str:
    """Return the id of this boot of the kernel (random(4)); it changes with every reboot."""
    if not _boot:
        fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _boot.append(os.read(fd, 64).decode().strip())
        finally:
            os.close(fd)
    return _boot[0]


def boot_root() -> str:
    """Return the directory, in the storage, of what is true until the next boot.

    Not in $XDG_RUNTIME_DIR: that differs between a login, cron and `su`, and ends with the last
    session of the user, while containers may go on.
    """
    return f"{storage_root()}/run/{boot_id()}"


def runtime_root() -> str:
    """Return the directory of the OCI runtime's state, made if absent.

    $XDG_RUNTIME_DIR/rless, which is closed to others, where nobody else may write to
    $XDG_RUNTIME_DIR; else a directory of this boot in the storage: never a guessable name in a
    shared /tmp. Others may pass through $XDG_RUNTIME_DIR: Podman opens it (0711) for containers
    with user namespaces of their own, and never closes it.

    Raises:
        RlessError: as `storage_root`.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    # The storage is not asked for where it is not needed: Podman names no home to its runtime.
    if base.startswith("/") and _is_ours(base):
        path, forbidden = f"{base}/rless", 0o077
    else:
        # `rless` may have made it first, as the parent of what is closed to others.
        path, forbidden = boot_root(), 0o022
    private_dir(path, "set XDG_RUNTIME_DIR to a directory of yours with mode 0700", forbidden)
    return path


def _is_ours(path: str) -> bool:
    """Tell whether it is a directory in which we alone may make and remove files."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and status.st_mode & 0o022 == 0
    )


def private_dir(path: str, hint: str | None = None, forbidden: int = 0o077) -> None:
    """Make `path` with mode 0700 if it is absent, and check that it is ours alone.

    Args:
        path: absolute; missing parents are made too, with that mode whatever the umask.
        hint: what to tell the user when it cannot be.
        forbidden: bits of the mode that it must not have.

    Raises:
        RlessError: not a directory, a link, of another owner, or open to group or others.
    """
    try:
        if _make_private(path):
            return
        status = os.lstat(path)
    except OSError as error:
        raise RlessError(
            f"cannot make {path}: {error.strerror}", hint_of(error.errno) or hint
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise RlessError(f"{path} is not a directory", hint)
    if status.st_uid != os.getuid():
        raise RlessError(f"{path} belongs to uid {status.st_uid}, not to you", hint)
    if status.st_mode & forbidden:
        raise RlessError(
            f"{path} is open to other users (mode {status.st_mode & 0o7777:04o})",
            f"chmod 700 {path}",
        )


def _make_private(path: str) -> bool:
    """Make a directory and its parents; tell whether it was absent.

    os.makedirs gives parents the mode of the umask, which can let the group write: 002 is common.
    """
    try:
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            _make_private(os.path.dirname(path))
            os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    return True


_checked: set[str] = set()


def checked(path: str) -> str:
    """Return a directory after `private_dir`, which is asked at the first use in a process."""
    if path not in _checked:
        private_dir(path)
        _checked.add(path)
    return path
