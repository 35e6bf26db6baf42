"""Commands that are rless under another name: links to the launcher, which looks at its name.

A link and no copy, so that what it starts is never older than the package. No list of them is kept:
a link to a program `rless` by the name of a front is one, whoever has made it.
"""

from __future__ import annotations

import os
import sys

from rootless.cli.fronts.versions import NUMBERS
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = tuple(NUMBERS)


def launcher() -> str:
    """Return the path of the launcher that runs now.

    Raises:
        RlessError: there is none: Python was started on the package.
    """
    path = os.path.realpath(sys.argv[0])
    if os.path.basename(path) != "rless" or not os.access(path, os.X_OK):
        raise RlessError(
            "rless was not started by its launcher, which an alias is a link to",
            "call the command `rless` that the installation has made",
        )
    return path


def is_alias(path: str) -> bool:
    """Tell whether a file is a link to a launcher of rless, there or gone."""
    return os.path.islink(path) and os.path.basename(os.path.realpath(path)) == "rless"


def install(directory: str, names: Iterable[str] = NAMES, *, force: bool = False) -> list[str]:
    """Make commands in a directory, which is made if it is missing; return their paths.

    Args:
        force: replace other files of these names.

    Raises:
        RlessError: there is another file, which stays, and none of the commands is made.
        OSError: a command cannot be made.
    """
    target = launcher()
    paths = [os.path.join(directory, name) for name in names]
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            raise RlessError(f"{path} is a directory", "choose another directory")
        if os.path.lexists(path) and not is_alias(path) and not force:
            raise RlessError(
                f"{path} is there already, and no alias of rless",
                "choose another directory, or replace it by --force",
            )
    os.makedirs(directory, exist_ok=True)
    for path in paths:
        fresh = f"{path}.{os.getpid()}"
        os.symlink(target, fresh)
        try:
            os.rename(fresh, path)
        except OSError:
            os.unlink(fresh)
            raise
    return paths


def find(directories: Iterable[str]) -> list[str]:
    """Return the paths of the aliases in directories, in this order."""
    paths = (os.path.join(directory, name) for directory in directories for name in NAMES)
    return [path for path in dict.fromkeys(paths) if is_alias(path)]


def remove(directory: str, names: Iterable[str] = NAMES) -> list[str]:
    """Remove the aliases in a directory, and no other file; return their paths."""
    found = [path for path in find([directory]) if os.path.basename(path) in names]
    for path in found:
        os.unlink(path)
    return found
