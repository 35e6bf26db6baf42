"""Step 6, the application: its limits, its directory, its program.

All of this is the last stretch of init, inside the new root, where nothing can be imported
any more.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from rootless.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, RlessError, SyscallError
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import RESOLVE_NO_MAGICLINKS, openat2
from rootless.linux.process import getcwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.oci.runtime_spec import Rlimit

_INFINITY = 2**63 - 1
_SCRIPT_DEPTH = 6  # the kernel follows 5 interpreters of scripts
_RLIMITS = {
    f"RLIMIT_{name[7:]}": getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
# Those that Python's module does not name (linux/resource.h).
_RLIMITS.setdefault("RLIMIT_LOCKS", 10)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check_rlimits(rlimits: list[Rlimit]) -> None:
    """Make sure that `set_rlimits` will work, early: a low limit would be in our own way.

    Raises:
        RlessError: an unknown name, or above what the caller may have.
    """
    for entry in rlimits:
        name, hard = entry["type"], entry["hard"]
        if name not in _RLIMITS:
            raise RlessError(f"process.rlimits: unknown limit {name}")
        _, allowed = resource.getrlimit(_RLIMITS[name])
        if allowed == resource.RLIM_INFINITY or hard <= allowed:
            continue
        try:
            resource.setrlimit(_RLIMITS[name], (allowed, _limit(hard)))
        except (ValueError, OSError) as error:
            raise RlessError(
                f"cannot set {name} to {entry['soft']}:{hard}: {error}",
                f"the hard limit of your session is {allowed}",
            ) from error


def set_rlimits(rlimits: list[Rlimit]) -> None:
    """Set the resource limits (setrlimit(2)), which `check_rlimits` has seen."""
    for entry in rlimits:
        resource.setrlimit(_RLIMITS[entry["type"]], (_limit(entry["soft"]), _limit(entry["hard"])))


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value >= _INFINITY else value


def enter_directory(path: str) -> bool:
    """Make `path` the working directory; return False if the caller may not.

    A descriptor of the host that had survived could lead out (CVE-2024-21626): so no magic link
    of /proc is followed, and the kernel, asked afterwards, must show a path below our root.

    Raises:
        RlessError: it is missing, no directory, or outside.
    """
    try:
        fd = openat2(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
    except SyscallError as error:
        if error.errno == errno.EACCES:
            return False
        raise RlessError(
            f"cannot enter the working directory {path}: {os.strerror(error.errno)}",
            exit_code=EXIT_CANNOT_EXECUTE,
        ) from error
    try:
        os.fchdir(fd)
    except PermissionError:
        return False
    finally:
        os.close(fd)
    if not getcwd().startswith(b"/"):
        raise RlessError("the working directory is outside of the container")
    return True


def parse_environment(entries: list[str]) -> dict[str, str]:
    """Return the environment as a mapping; of duplicates the last one wins."""
    environment = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        environment[name] = value
    return environment


def _candidates(program: str, environment: dict[str, str]) -> list[str]:
    if not program:
        raise RlessError("the command is empty", exit_code=EXIT_NOT_FOUND)
    if "/" in program:
        return [program]
    path = environment.get("PATH") or _DEFAULT_PATH
    return [f"{directory or '.'}/{program}" for directory in path.split(":")]


def image_of_caller() -> tuple[int, int]:
    """Return the identity of the program that runs us: the interpreter of the host."""
    status = os.stat("/proc/self/exe")
    return status.st_dev, status.st_ino


def guard_image(program: str, environment: dict[str, str], own: tuple[int, int]) -> None:
    """Refuse a program that is a way back to ours (CVE-2019-5736).

    /proc/self/exe of init is the host's interpreter. An image can name it as its program, by a
    link, or behind "#!"; what it runs then could open that file for writing, and the file may
    well be the user's. The same file reached through a mount is the user's own wish.

    Args:
        own: of `image_of_caller`.

    Raises:
        RlessError: it is ours.
    """
    for candidate in _candidates(program, environment):
        path = candidate
        for _ in range(_SCRIPT_DEPTH):
            if path:
                _refuse_magic(path, own)
                path = _interpreter(path)


def _refuse_magic(path: str, own: tuple[int, int]) -> None:
    try:
        os.close(openat2(AT_FDCWD, path, os.O_PATH, resolve=RESOLVE_NO_MAGICLINKS))
        return
    except SyscallError as error:
        if error.errno != errno.ELOOP:
            return  # execve will tell
    try:
        status = os.stat(path)
    except OSError:
        return
    if (status.st_dev, status.st_ino) == own:
        raise RlessError(
            f"cannot execute {path}: it leads to the program that starts the container",
            exit_code=EXIT_CANNOT_EXECUTE,
        )


def _interpreter(path: str) -> str:
    """Return the interpreter that a script names in its first line, else ""."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        head = os.read(fd, 256)  # BINPRM_BUF_SIZE
    finally:
        os.close(fd)
    words = head[2:].partition(b"\n")[0].split(None, 1) if head.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def execute(args: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the program `args[0]`, looked up in the container's own PATH.

    Raises:
        RlessError: exit code 127: not found; 126: found, but it cannot be executed.
    """
    program = args[0]
    candidates = _candidates(program, environment)
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
