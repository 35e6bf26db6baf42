"""Processes: referred to by pidfd, their descriptors closed, their credentials set."""

from __future__ import annotations

import errno
import os
import time

from rootless.errors import INVALID, RlessError, SyscallError
from rootless.linux import ffi
from rootless.linux.call import (
    AT_SYMLINK_NOFOLLOW,
    SYS_CLOSE_RANGE,
    SYS_EXECVEAT,
    SYS_GETCWD,
    SYS_PIDFD_OPEN,
    SYS_PIDFD_SEND_SIGNAL,
    encode,
    libc,
    refused,
    syscall,
)
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any, NoReturn

HELPER_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}  # of other programs that we start
# What the parent ignores would be ignored by them too.
HELPER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)

_CLOSE_RANGE_CLOEXEC = 4
_LAST_FD = 0xFFFFFFFF
_place: tuple[int, int] | None = None  # of the arguments, once it was asked for


def own_program(name: str) -> str:
    """Return the path of a program in C that is installed with rless."""
    return f"{os.path.dirname(os.path.dirname(__file__))}/bin/{name}"


def open_own_program(name: str) -> int:
    """Return a descriptor to execute one of our programs by (O_PATH, close-on-exec).

    Raises:
        RlessError: the installation has no such program.
    """
    try:
        return os.open(own_program(name), os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_execute(name, error) from error


def cannot_execute(name: str, error: OSError) -> RlessError:
    """Return what to tell when one of our programs could not be executed."""
    hint = None
    if error.errno in (errno.ENOENT, errno.ENOEXEC):  # missing; of another processor
        hint = "the installation is broken: install rless again"
    elif error.errno == errno.EACCES:
        hint = "rless must be installed where programs may be executed, not on a noexec mount"
    return RlessError(f"cannot execute {own_program(name)}: {os.strerror(error.errno or 0)}", hint)


def pidfd_open(pid: int) -> int:
    """Return a descriptor of the process (pidfd_open(2), Linux 5.3); ESRCH: there is none."""
    return syscall(f"pidfd_open({pid})", SYS_PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal the process behind a pidfd, never one that took its number (pidfd_send_signal(2)).

    Raises:
        SyscallError: ESRCH: it has ended; EPERM: not ours to signal.
    """
    syscall("pidfd_send_signal", SYS_PIDFD_SEND_SIGNAL, pidfd, signal, None, 0)


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11)."""
    try:
        syscall("close_range", SYS_CLOSE_RANGE, first, _LAST_FD, _CLOSE_RANGE_CLOEXEC)
    except SyscallError as error:
        if error.errno == errno.EINVAL:  # Linux 5.9 and 5.10 lack the flag only
            raise refused("close_range", errno.ENOSYS) from None
        raise


def close_from(first: int) -> None:
    """Close every descriptor from `first` on (close_range(2), Linux 5.9)."""
    syscall("close_range", SYS_CLOSE_RANGE, first, _LAST_FD, 0)


def close_others(kept: set[int]) -> None:
    """Close every descriptor above 2 but these; a number below 3 in `kept` means none."""
    first = 3
    for fd in sorted(fd for fd in kept if fd >= 3):
        if fd > first:
            os.closerange(first, fd)
        first = fd + 1
    close_from(first)


def execute_in(dir_fd: int, name: str, args: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the program `name` of a directory; a link of that name is not followed.

    With a close-on-exec `dir_fd` the kernel runs no script: its interpreter could not open it.

    Raises:
        OSError: as execve(2); ELOOP: it is a link; ENOENT: also a script.

    Source: execveat(2), Linux 3.19.
    """
    try:
        syscall(
            f"execveat({name})",
            SYS_EXECVEAT,
            dir_fd,
            encode(name),
            _pointers(args),
            _pointers(f"{key}={value}" for key, value in environment.items()),
            AT_SYMLINK_NOFOLLOW,
        )
    except SyscallError as error:
        raise OSError(error.errno, os.strerror(error.errno), name) from None
    raise AssertionError("unreachable")


def _pointers(words: Iterable[str]) -> Any:
    """Return an array of C strings that NULL ends."""
    values = [*(encode(word) for word in words), None]
    return (ffi.c_char_p * len(values))(*values)


def getcwd() -> bytes:
    """Return the working directory as the kernel shows it (getcwd(2)).

    Outside of the root it begins with "(unreachable)", which libc's function of the same name
    does not show.
    """
    buffer = ffi.create_string_buffer(4096 + 16)
    syscall("getcwd", SYS_GETCWD, buffer, len(buffer))
    return buffer.value


def arguments_place() -> tuple[int, int]:
    """Return where our command line begins and ends in memory; the same in all later children."""
    global _place
    if _place is None:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        _place = int(fields[45]), int(fields[46])
    return _place


def show_as(title: str) -> None:
    """Replace the command line that ps shows of this process, and of its later children.

    Arguments may hold secrets (`-e TOKEN=x`); a process that outlives the command would show
    them to every user of the host (security class 43). A title that is too long is cut.

    Source: proc_pid_stat(5), fields 48 and 49; proc_pid_cmdline(5).
    """
    start, end = arguments_place()
    if 0 < start < end:
        size = end - start
        text = os.fsencode(title)[: size - 1].ljust(size, b"\0")
        libc.memmove(ffi.c_ulong(start), text, ffi.c_size_t(size))


def hide_values(words: Sequence[str]) -> None:
    """Cut each word behind its first `=` in the command line that ps shows: `-e NAME=SECRET`.

    It costs nothing where no word has a value.

    Args:
        words: all of the command line, as it is to be shown.
    """
    if any("=" in word for word in words):
        show_as("\0".join(word[: word.find("=") + 1] or word for word in words))


def set_ids(uid: int, gid: int, groups: list[int] | None) -> None:
    """Become (uid, gid) for good: real, effective and saved; read back what came of it.

    Args:
        groups: supplementary groups; None leaves them (setgroups is denied in a user namespace
            that was mapped without newgidmap).

    Raises:
        SyscallError: EINVAL: an id has no mapping in the user namespace; EPERM.
    """
    call = f"setresuid({uid}, {gid})"
    try:
        if groups is not None:
            os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SyscallError(call, error.errno or 0) from error
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise SyscallError(call, 1)


def become_root(*, keep_groups: bool = False) -> None:
    """Become uid and gid 0 of this user namespace, as far as they are mapped.

    The supplementary groups go, if they need not be kept.

    Where id 0 has no mapping (one id, and the application is not root) the caller stays who it
    is, with all capabilities all the same.
    """
    try:
        if not keep_groups:
            os.setgroups([])
    except OSError as error:
        if error.errno != errno.EPERM:  # setgroups is denied where one id is mapped
            raise SyscallError("setgroups", error.errno or 0) from error
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: 0 is not mapped
                raise SyscallError("setresuid(0)", error.errno or 0) from error


def signal_number(name: str) -> int:
    """Return the number of SIGTERM, TERM, 15, RTMIN+3 (signal(7)).

    Raises:
        RlessError: there is no such signal.
    """
    text = name.upper().removeprefix("SIG")
    base, plus, offset = text.partition("+")
    if not plus and not base.startswith("_"):  # SIG_DFL
        number = getattr(signal, f"SIG{base}", None) or _number(text)
    else:
        number = signal.SIGRTMIN + _number(offset) if base == "RTMIN" and offset else 0
    if 0 < number < signal.NSIG:
        return int(number)
    raise RlessError(f"{name!r} is no signal", kind=INVALID)


def _number(text: str) -> int:
    """Return what some digits say, and for anything else a number that no signal has."""
    few = len(text) < 4 and text.isascii() and text.isdigit()
    return int(text) if few else signal.NSIG


def kill_children(spared: Collection[int], seconds: float) -> None:
    """Kill the caller's children but for some, and wait for them, for so many seconds at most.

    Of a child subreaper (prctl(2)) the children of the killed become its own, and go too.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            children = [int(word) for word in file.read().split()]
        children = [pid for pid in children if pid not in spared]
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # until we wait for it, its number is its own
        for pid in children:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                time.sleep(0.002)


def read_exactly(fd: int, size: int) -> bytes:
    """Return `size` bytes, or fewer at the end of the file."""
    data = b""
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def describe_end(status: int) -> str:
    """Return how a child has ended, by its status of waitpid(2), for an error."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed (signal {-code})" if code < 0 else f"ended (code {code})"


def outcome(pid: int, reader: int) -> tuple[int, bytes]:
    """Wait for a child; return its exit code (-N: signal N), and the last 4 KiB that it said.

    Args:
        reader: of the pipe that it writes to, of which the caller has closed the other end; it is
            closed.
    """
    said = b""
    while chunk := os.read(reader, 65536):
        said = (said + chunk)[-4096:]
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said
