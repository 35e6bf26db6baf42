"""Finding programs that are not ours: one policy for all of them.

`find` looks in directories that only root writes on every system, never in $PATH, and takes what
root owns and nobody else can write to. All helpers of a start are found so (newuidmap, pasta,
fuse-overlayfs, squashfuse, mksquashfs, journalctl ...).

`find_pasta` also takes the user's own, from ~/.local/bin: pasta does nothing that its user could
not do.

`find_in_path` is for what a user installs as they like: credential helpers, and Slurm's commands.
They come from $PATH by their nature, and may be the user's own, but nobody else's.

Hooks and the commands of containers are named by whoever writes the config, and are not looked
for here.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError, escape

DIRECTORIES = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
# Whoever owns it counts as root: in a user namespace where host root has no id, its files belong
# to the overflow id.
_ROOTS = "/usr"


def find(name: str) -> str | None:
    """Return the absolute path of a program of the system; None: it is not installed by root."""
    for directory in DIRECTORIES:
        path = f"{directory}/{name}"
        if is_trusted(path):
            return path
    return None


def find_pasta() -> str | None:
    """Return as `find` the pasta of the system, else the one in the user's ~/.local/bin.

    Raises:
        RlessError: the latter is another user's, or others may write to it.
    """
    path = find("pasta")
    if path is None:
        own = os.path.expanduser("~/.local/bin/pasta")
        path = own if _is_own(own) else None
    return path


def find_privileged(name: str) -> str | None:
    """Return as `find` a program that is set-uid root or has file capabilities.

    Where its owner has no id, in a user namespace without host root, the kernel ignores both
    (execve(2)): there is no such program then.
    """
    path = find(name)
    return path if path is not None and os.stat(path).st_uid == 0 else None


def is_trusted(path: str) -> bool:
    """Tell whether a path leads to a program of root's that nobody else can change."""
    try:
        status = os.stat(path)
        is_roots = status.st_uid == 0 or status.st_uid == os.stat(_ROOTS).st_uid
    except OSError:
        return False
    is_program = stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
    return is_program and is_roots and not status.st_mode & 0o022


def find_in_path(name: str, more: str = "") -> str | None:
    """Return the absolute path of a program in $PATH; None: there is none.

    Args:
        more: directories to look in afterwards, joined by colons.

    Raises:
        RlessError: another user owns the first one, or everybody may write to it.
    """
    places = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    for directory in f"{places}:{more}".split(":"):
        path = f"{directory}/{name}"
        if directory.startswith("/") and _is_own(path):
            return path
    return None


def _is_own(path: str) -> bool:
    """Tell whether a path leads to a program; refuse one that others can change."""
    if not os.access(path, os.X_OK):
        return False
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_mode & 0o002 or status.st_uid not in (0, os.getuid()):
        raise RlessError(f"{escape(path)} can be changed by others: refused")
    return True
