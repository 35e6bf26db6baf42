"""Step 6, the application: its limits, its directory, its program.

All of this is the last stretch of init, inside the new root, where nothing can be imported
any more.
"""

from __future__ import annotations

import errno
import os
import resource

from rootless.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.oci.runtime_spec import Rlimit

_INFINITY = 2**64 - 1
_RLIMITS = {
    f"RLIMIT_{name[7:]}": getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
# Those that Python's module does not name (linux/resource.h).
_RLIMITS.setdefault("RLIMIT_LOCKS", 10)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def set_rlimits(rlimits: list[Rlimit]) -> None:
    """Set the resource limits (setrlimit(2)).

    Raises:
        RlessError: an unknown name, soft above hard, or above what the caller may have.
    """
    for entry in rlimits:
        name, soft, hard = entry["type"], entry["soft"], entry["hard"]
        if name not in _RLIMITS:
            raise RlessError(f"process.rlimits: unknown limit {name}")
        wanted = tuple(
            resource.RLIM_INFINITY if value >= _INFINITY else value for value in (soft, hard)
        )
        try:
            resource.setrlimit(_RLIMITS[name], (wanted[0], wanted[1]))
        except (ValueError, OSError) as error:
            _, allowed = resource.getrlimit(_RLIMITS[name])
            raise RlessError(
                f"cannot set {name} to {soft}:{hard}: {error}",
                f"the hard limit of your session is {allowed}",
            ) from error


def enter_directory(path: str) -> None:
    """Make `path` the working directory, and make sure that it lies inside the root.

    A descriptor of the host that had survived could lead out (CVE-2024-21626): the kernel then
    reports a path that does not begin with "/".

    Raises:
        RlessError: it is missing, closed to us, no directory, or outside.
    """
    try:
        os.chdir(path)
        inside = os.getcwd()
    except OSError as error:
        raise RlessError(
            f"cannot enter the working directory {path}: {error.strerror}",
            exit_code=EXIT_CANNOT_EXECUTE,
        ) from error
    if not inside.startswith("/"):
        raise RlessError("the working directory is outside of the container")


def parse_environment(entries: list[str]) -> dict[str, str]:
    """Return the environment as a mapping; of duplicates the last one wins."""
    environment = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        environment[name] = value
    return environment


def execute(args: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the program `args[0]`, looked up in the container's own PATH.

    Raises:
        RlessError: exit code 127: not found; 126: found, but it cannot be executed.
    """
    program = args[0]
    if not program:
        raise RlessError("the command is empty", exit_code=EXIT_NOT_FOUND)
    if "/" in program:
        candidates = [program]
    else:
        path = environment.get("PATH") or _DEFAULT_PATH
        candidates = [f"{directory or '.'}/{program}" for directory in path.split(":")]
    denied: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, args, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                if denied is None:
                    denied = error
                if error.errno not in (errno.EACCES, errno.EPERM):
                    break
            elif "/" in program and os.path.lexists(candidate):
                raise RlessError(
                    f"cannot execute {program}: its interpreter or loader is not in the image",
                    exit_code=EXIT_NOT_FOUND,
                ) from error
    if denied is not None:
        why = os.strerror(denied.errno or 0)
        if denied.errno == errno.EACCES and any(os.path.isdir(one) for one in candidates):
            why = "it is a directory"
        raise RlessError(f"cannot execute {program}: {why}", exit_code=EXIT_CANNOT_EXECUTE)
    where = "no such file in the container" if "/" in program else "not found in $PATH"
    raise RlessError(f"cannot execute {program}: {where}", exit_code=EXIT_NOT_FOUND)
