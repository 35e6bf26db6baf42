"""Step 6, the application: its limits, its directory, its program.

This is the last part of init, inside the new root, where nothing can be imported any more.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, RlessError, SyscallError
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import LINKS, RESOLVE_NO_MAGICLINKS, openat2
from rootless.linux.process import execute_in, getcwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.oci.runtime_spec import Rlimit

_INFINITY = 2**63 - 1
_SCRIPT_DEPTH = 6  # the kernel follows 5 interpreters of scripts
# In the order of their numbers (asm-generic/resource.h), the same on all processors that we know.
_RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE"
        " RTPRIO RTTIME".split()
    )
}
_HINTS = {  # of errors of execve(2)
    errno.EIO: "the image, or the disk, is damaged",
    errno.ENOEXEC: "a program for another processor needs qemu-user and binfmt_misc; a script #!",
}
# Annotation: the directories, one a line, of which the first that is there becomes the working one.
WORKDIRS = "dev.rless.workdirs"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check_rlimits(rlimits: list[Rlimit]) -> None:
    """Make sure that `set_rlimits` will work, early: a low limit would be in our own way.

    Raises:
        RlessError: an unknown name, or above what the caller may have.
    """
    if not rlimits:
        return
    import resource  # loaded by the caller, when that was still possible

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
    if not rlimits:
        return
    import resource

    for entry in rlimits:
        resource.setrlimit(_RLIMITS[entry["type"]], (_limit(entry["soft"]), _limit(entry["hard"])))


def _limit(value: int) -> int:
    return -1 if value >= _INFINITY else value  # resource.RLIM_INFINITY


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
            exit_code=EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_CANNOT_EXECUTE,
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


def is_own_image_writable() -> bool:
    """Tell whether the caller may write the program that runs us: a Python of the user's own."""
    return os.stat("/proc/self/exe").st_uid == os.geteuid() or os.access("/proc/self/exe", os.W_OK)


class Held:
    """A program, held by its directory, with every link on the way to it resolved.

    Where processes of the container run already, one of them can put a link to /proc/self/exe in
    the place of a program between the check of `guard_image` and execve. A held program can only
    be exchanged for another file of the container: the kernel follows no link, and runs no script,
    because it would look up the interpreter anew. So the name of a script's interpreter is read
    here, and the interpreter is held. /proc/PID/comm shows the program's name; otherwise it shows
    the name of a link to it.
    """

    __slots__ = ("args", "dir_fd", "name")

    def __init__(self, path: str, args: list[str]) -> None:
        """Find what execve would run in the end for `path`, and with which arguments.

        Raises:
            OSError: it is not there, or not to be reached.
        """
        self.args = args
        for _ in range(_SCRIPT_DEPTH):
            self._hold(path)
            interpreter, argument = self._read_script()
            if not interpreter:
                return
            self.args = [interpreter, *([argument] if argument else []), path, *self.args[1:]]
            path = interpreter
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _hold(self, path: str) -> None:
        for _ in range(LINKS):
            parent, slash, self.name = path.rpartition("/")
            where = (parent or "/") if slash else "."
            try:
                self.dir_fd = openat2(
                    AT_FDCWD, where, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS
                )
            except SyscallError as error:
                raise OSError(error.errno, os.strerror(error.errno), path) from None
            try:
                # Of a magic link, this is the text only: as good a path as any other.
                target = os.readlink(self.name, dir_fd=self.dir_fd)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # no link
                raise
            path = target if target.startswith("/") else f"{where}/{target}"
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _read_script(self) -> tuple[str, str]:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.name, flags, dir_fd=self.dir_fd)
        except OSError:
            return "", ""  # to be executed, not read
        return _script_of(fd)

    def execute(self, environment: dict[str, str]) -> NoReturn:
        """Become it.

        Raises:
            OSError: as execve(2).
        """
        execute_in(self.dir_fd, self.name, self.args, environment)


def hold_all(args: list[str], environment: dict[str, str]) -> list[Held | OSError]:
    """Return each candidate of the container's PATH: held, or why it is not."""
    held: list[Held | OSError] = []
    for candidate in _candidates(args[0], environment):
        try:
            held.append(Held(candidate, args))
        except OSError as error:
            held.append(error)
    return held


def image_of_caller() -> tuple[int, int]:
    """Return the identity of the program that runs us: the interpreter of the host."""
    status = os.stat("/proc/self/exe")
    return status.st_dev, status.st_ino


def guard_image(program: str, environment: dict[str, str], own: tuple[int, int]) -> None:
    """Refuse a program that is a way back to ours (CVE-2019-5736).

    /proc/self/exe of init is the host's interpreter. An image can name it as its program, by a
    link, or behind "#!"; what it runs then could open that file for writing, and the file may
    well be the user's. The same file reached through a mount is the user's own choice.

    Args:
        own: of `image_of_caller`.

    Raises:
        RlessError: it is ours.
    """
    for candidate in _candidates(program, environment):
        path = candidate
        for _ in range(_SCRIPT_DEPTH):
            if not path or not _refuse_magic(path, own):
                break
            path = _interpreter(path)


def _refuse_magic(path: str, own: tuple[int, int]) -> bool:
    """Refuse a path that leads to our program; tell whether there may be anything."""
    try:
        os.close(openat2(AT_FDCWD, path, os.O_PATH, resolve=RESOLVE_NO_MAGICLINKS))
        return True
    except SyscallError as error:
        if error.errno != errno.ELOOP:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)  # execve will tell
    try:
        status = os.stat(path)
    except OSError:
        return True
    if (status.st_dev, status.st_ino) == own:
        raise RlessError(
            f"cannot execute {path}: it leads to the program that starts the container",
            exit_code=EXIT_CANNOT_EXECUTE,
        )
    return True


def _interpreter(path: str) -> str:
    """Return the interpreter that a script names in its first line, else ""."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    return _script_of(fd)[0]


def _script_of(fd: int) -> tuple[str, str]:
    """Return (interpreter, argument) of the first line of a script, ("", "") for no script."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "", ""
        head = os.read(fd, 256)  # BINPRM_BUF_SIZE
    except OSError:
        return "", ""  # of a damaged image; execve will tell
    finally:
        os.close(fd)
    if not head.startswith(b"#!"):
        return "", ""
    words = head[2:].partition(b"\n")[0].strip(b" \t").split(None, 1)
    words += [b""] * (2 - len(words))
    return os.fsdecode(words[0]), os.fsdecode(words[1])


def execute(
    args: list[str], environment: dict[str, str], held: list[Held | OSError] | None = None
) -> NoReturn:
    """Become the program `args[0]`, looked up in the container's own PATH.

    Args:
        held: of `hold_all`, where others may exchange the program meanwhile.

    Raises:
        RlessError: exit code 127: not found; 126: found, but it cannot be executed.
    """
    program = args[0]
    candidates = _candidates(program, environment)
    denied: OSError | None = None
    for index, candidate in enumerate(candidates):
        try:
            if held is None:
                os.execve(candidate, args, environment)
            one = held[index]
            if isinstance(one, OSError):
                raise one
            one.execute(environment)
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
        if denied.errno == errno.EACCES:
            why = "permission denied"  # in Docker's words: its client makes 126 of them
            if any(os.path.isdir(one) for one in candidates):
                why = f"{why}: it is a directory"
        hint = _HINTS.get(denied.errno or 0)
        raise RlessError(f"cannot execute {program}: {why}", hint, EXIT_CANNOT_EXECUTE)
    raise _not_found(program)


def _not_found(program: str) -> RlessError:
    # Podman knows by these words that it was not found.
    where = "no such file or directory in the container"
    if "/" not in program:
        where = "executable file not found in $PATH"
    return RlessError(f"cannot execute {program}: {where}", exit_code=EXIT_NOT_FOUND)


def find(program: str, environment: dict[str, str]) -> None:
    """Check that there is a program to execute: later, nobody may be there to get the error.

    Raises:
        RlessError: as `execute`; what only the kernel can tell is left to it.
    """
    denied = False
    for candidate in _candidates(program, environment):
        try:
            mode = os.stat(candidate).st_mode
        except PermissionError:
            denied = True
            continue
        except OSError:
            continue
        if stat.S_ISREG(mode) and os.access(candidate, os.X_OK, effective_ids=True):
            return
        denied = True
    if denied:
        raise RlessError(
            f"cannot execute {program}: permission denied", exit_code=EXIT_CANNOT_EXECUTE
        )
    raise _not_found(program)
