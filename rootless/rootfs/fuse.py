"""File systems that a program serves: fuse-overlayfs, squashfuse.

The mount is ours: /dev/fuse is opened and mounted here, and the program gets the descriptor
(`/dev/fd/N` as its mount point, libfuse 3.3). The first request then waits for the program, so
nothing has to be polled, and it fails if the program has ended. The program would end if it read
from the descriptor before there is a mount, so it is begun only then.

The program must end when its mount ends. A process in the engine's mount namespace keeps that
namespace alive, the mount in it too, and so itself, for ever: so the program gets a mount
namespace of its own, which the mount is never in. When every process of the container is gone,
even by SIGKILL, the kernel ends the mount, the program reads ENODEV and exits.
"""

from __future__ import annotations

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
    from typing import Any, NoReturn
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

# Only directories that root owns on every system: one planted in $PATH is never run.
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin")
_HELPER = "rless-serve"  # helpers/serve.c
_HELPER_RIGHTS = ["CAP_SETPCAP", "CAP_SYS_ADMIN"]
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


class Server:
    """A program that serves a file system: a child, which becomes the program once it is mounted.

    So the child can be made ready before it is known where, or while ids are not mapped yet.

    Attributes:
        name: of the program.
        pid: of the child; 0: it has been waited for.
    """

    __slots__ = ("_apart", "_fd", "_go", "_log_fd", "_mount_fd", "name", "pid")

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        log_fd: int,
        *,
        privileged: bool,
        keep_fd: int = -1,
    ) -> None:
        """Begin what will be `program ARGUMENTS /dev/fd/N`.

        Args:
            log_fd: takes what the program says; it is the server's from now on.
            privileged: the program keeps the capabilities over files of mapped ids; else it has
                none, no network, and no way to reach another process.
            keep_fd: a descriptor that it gets beside that of the mount.

        Raises:
            SyscallError: /dev/fuse cannot be used.
        """
        self.name = program.rpartition("/")[2]
        self._log_fd = log_fd
        self._mount_fd = -1
        try:
            self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            os.close(log_fd)
            raise SyscallError("open(/dev/fuse)", error.errno or 0) from error
        wait_fd, self._go = os.pipe()
        self._apart, apart_fd = os.pipe()
        keep = (self._fd,) if keep_fd < 0 else (self._fd, keep_fd)
        argv = [self.name, *arguments, f"/dev/fd/{self._fd}"]
        self.pid = 0 if privileged else self._spawn(program, argv, keep, wait_fd, apart_fd)
        if self.pid == 0:
            self.pid = self._fork(program, argv, keep, wait_fd, apart_fd, privileged)
        process.begin_elsewhere(self.pid)
        os.close(wait_fd)
        os.close(apart_fd)

    def _spawn(
        self, program: str, argv: list[str], keep: tuple[int, ...], wait_fd: int, apart_fd: int
    ) -> int:
        """Start rless-serve, which does what `_fork` does; return its pid, 0: it was not built."""
        words = [_HELPER, str(wait_fd), str(apart_fd), str(keep[0]), str(keep[-1]), program, *argv]
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, self._log_fd, 1),
            (os.POSIX_SPAWN_DUP2, self._log_fd, 2),
            # To itself: it stays open over execve.
            *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in (wait_fd, apart_fd, *keep)),
        ]
        with process.Here(), caps.Lent(caps.mask(_HELPER_RIGHTS)):
            try:
                return os.posix_spawn(
                    process.own_program(_HELPER),
                    words,
                    {},
                    file_actions=actions,
                    setsigmask=(),
                    setsigdef=process.HELPER_SIGNALS,
                )
            except OSError:
                return 0

    def _fork(
        self,
        program: str,
        argv: list[str],
        keep: tuple[int, ...],
        wait_fd: int,
        apart_fd: int,
        privileged: bool,
    ) -> int:
        """Fork a child that becomes the program once there is a word in `wait_fd`.

        Args:
            apart_fd: gets a word as soon as no mount of ours can reach the child any more.
        """
        from rootless.linux import idmap
        from rootless.linux.become import become

        def serve() -> NoReturn:
            os.close(self._go)
            os.close(self._apart)
            os.setsid()  # a key of the terminal must not end it
            ns.unshare(ns.CLONE_NEWNS | (0 if privileged else ns.CLONE_NEWNET | ns.CLONE_NEWIPC))
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            os.write(apart_fd, b"+")
            if privileged:
                # The groups stay: the storage may be reachable by one of them only.
                idmap.become_root(keep_groups=True)
                caps.keep_over_exec()
            else:
                keep_only(0)
            os.chdir("/")
            if os.read(wait_fd, 1) != b"g":
                os._exit(70)  # who was to mount it has ended
            os.execve(program, argv, process.HELPER_ENVIRONMENT)

        pid = os.fork()
        if pid == 0:
            become(serve, self._log_fd, self._log_fd, keep)
        return pid

    def mount(self, flags: int = 0) -> None:
        """Make the mount, seen by nobody yet, and let the program begin.

        Args:
            flags: more MOUNT_ATTR_*; MOUNT_ATTR_NODEV is always there.

        Raises:
            SyscallError: FUSE cannot be mounted here. The child is gone then.
        """
        # Other users than the one that mounts: the container's. The kernel checks modes itself.
        options: list[tuple[str, str | None]] = [
            ("source", self.name),
            ("subtype", self.name),
            ("fd", str(self._fd)),
            ("rootmode", "40000"),
            ("user_id", str(os.geteuid())),
            ("group_id", str(os.getegid())),
            ("default_permissions", None),
            ("allow_other", None),
        ]
        if flags & mounts.MOUNT_ATTR_RDONLY:
            options.append(("ro", None))
        try:
            self._mount_fd = mounts.new_mount("fuse", options, flags | mounts.MOUNT_ATTR_NODEV)
        except SyscallError:
            self.end()
            raise
        os.close(self._fd)
        self._fd = -1
        try:
            os.write(self._go, b"g")
        except BrokenPipeError:
            pass  # it has ended: `attach` finds out, and tells why
        os.close(self._go)
        self._go = -1

    def attach(self, target: str) -> None:
        """Show the mount at `target`, and wait for the program.

        Raises:
            RlessError: the program has ended; what it said.
        """
        os.read(self._apart, 1)  # else its namespace could have a copy of the mount
        target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.move_mount(self._mount_fd, target_fd)
        finally:
            os.close(target_fd)
        try:
            os.stat(target)
        except OSError as error:
            mounts.umount(target)
            said = _last_line(self._log_fd)
            self.end()
            raise RlessError(f"{self.name} ended: {said or error.strerror}") from error
        self._close()

    def end(self) -> None:
        """End the program, and with it the mount."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self._close()

    def _close(self) -> None:
        for fd in (self._apart, self._fd, self._go, self._log_fd, self._mount_fd):
            if fd >= 0:
                os.close(fd)
        self._apart = self._fd = self._go = self._log_fd = self._mount_fd = -1


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


def _last_line(log_fd: int) -> str:
    lines = os.pread(log_fd, _LOG_LIMIT, 0).decode("utf-8", "replace").strip().splitlines()
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
