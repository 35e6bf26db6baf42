"""File systems that a program serves: fuse-overlayfs, squashfuse.

The mount is ours: /dev/fuse is opened and mounted here, and the program gets the descriptor
(`/dev/fd/N` as its mount point, libfuse 3.3). The first request then waits for the program, so
nothing has to be polled, and it fails if the program has ended.

The program must end when its mount ends. A process in the engine's mount namespace keeps that
namespace alive, the mount in it too, and so itself, for ever: so the program gets a mount
namespace of its own, from which the mount is detached. When every process of the container is
gone, even by SIGKILL, the kernel ends the mount, the program reads ENODEV and exits.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from rootless.errors import RlessError, SyscallError
from rootless.linux import caps, ns, prctl, process
from rootless.linux import mount as mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import NoReturn
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

# Only directories that root owns on every system: one planted in $PATH is never run.
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin")
_LOG_LIMIT = 4096
_END_SECONDS = 5.0


def find_program(name: str) -> str | None:
    """Return the absolute path of a program of the system; None: it is not installed.

    Host root has no mapping here, so it cannot be told by its number; but a program that is
    ours, or that others may write to, is not the system's.
    """
    for directory in _DIRECTORIES:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        ours = status.st_uid == os.getuid() and os.getuid() != 0
        if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022 and not ours:
            return path
    return None


def mount(
    program: str,
    arguments: Sequence[str],
    target: str,
    log: str,
    *,
    flags: int = 0,
    privileged: bool,
    keep_fd: int = -1,
) -> int:
    """Mount at `target` what `program ARGUMENTS /dev/fd/N` serves; return its pid, a child's.

    Args:
        log: the file that takes what the program says.
        flags: more MS_* flags; MS_NODEV is always there.
        privileged: the program keeps the capabilities over files of mapped ids; else it has none,
            and no network.
        keep_fd: a descriptor that it gets beside that of the mount.

    Raises:
        RlessError: /dev/fuse cannot be used, or the program ended; what it said.
    """
    name = program.rpartition("/")[2]
    try:
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open(/dev/fuse)", error.errno or 0) from error
    try:
        # Other users than the one that mounts: the container's. The kernel checks modes itself.
        data = (
            f"fd={fuse_fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},"
            "default_permissions,allow_other"
        )
        mounts.mount(name, target, f"fuse.{name}", flags | mounts.MS_NODEV, data)
        argv = [name, *arguments, f"/dev/fd/{fuse_fd}"]
        pid = os.fork()
        if pid == 0:
            keep = (fuse_fd,) if keep_fd < 0 else (fuse_fd, keep_fd)
            _serve(program, argv, keep, target, log, privileged)
    finally:
        os.close(fuse_fd)
    try:
        os.stat(target)
    except OSError as error:
        mounts.umount(target)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise RlessError(f"{name} ended: {_last_line(log) or error.strerror}") from error
    return pid


def _serve(
    program: str, argv: list[str], keep: tuple[int, ...], target: str, log: str, privileged: bool
) -> NoReturn:
    """Become the program, in the child."""
    try:
        # A key of the terminal must not end it.
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.dup2(null, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        process.close_on_exec_from(3)
        for fd in keep:
            os.set_inheritable(fd, True)
        # What the parent has blocked or ignored would stay so for the program.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        ns.unshare(ns.CLONE_NEWNS | (0 if privileged else ns.CLONE_NEWNET | ns.CLONE_NEWIPC))
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.umount(target)
        if privileged:
            _keep_capabilities()
        else:
            keep_only(0)
        os.chdir("/")
        os.execve(program, argv, process.HELPER_ENVIRONMENT)
    except BaseException as error:
        try:
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(127)


def keep_only(rights: int) -> None:
    """Keep these capabilities alone, over execve too, which then gives no other.

    Args:
        rights: a bit mask (caps.mask).
    """
    for number in range(caps.last_capability() + 1):
        if not rights >> number & 1:
            prctl.drop_bounding(number)
    caps.set_capabilities(rights, rights, rights)
    for number in range(rights.bit_length()):
        if rights >> number & 1:
            prctl.raise_ambient(number)
    prctl.set_no_new_privs()


def _keep_capabilities() -> None:
    """Make the capabilities survive execve: as uid 0 where that is mapped, else as ambient.

    The supplementary groups stay: the storage may be reachable by one of them only.
    """
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    if os.geteuid() == 0:
        return
    last = caps.last_capability()
    every = (1 << (last + 1)) - 1
    caps.set_capabilities(every, every, every)
    for number in range(last + 1):
        prctl.raise_ambient(number)


def _last_line(log: str) -> str:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read(_LOG_LIMIT).strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def wait(pid: int) -> None:
    """Reap the program after its mount is gone; end it if it doesn't end by itself."""
    deadline = time.monotonic() + _END_SECONDS
    try:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.002)
    except ChildProcessError:
        pass  # reaped already
