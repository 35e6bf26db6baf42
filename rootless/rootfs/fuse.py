"""File systems that a program serves: fuse-overlayfs, squashfuse.

We open and mount /dev/fuse before the program starts, and pass it the descriptor (`/dev/fd/N` as
its mount point, libfuse 3.3). The first request then waits for the program, so nothing has to be
polled; the request fails if the program has ended. The program would end if it read from the
descriptor before there is a mount.

A program that needs no right (squashfuse) is begun by rless-serve (helpers/fuse_server), which
makes the mount and becomes the program. So a caller can begin it before it enters the user
namespace. For a program that needs some (fuse-overlayfs) the caller makes the mount, and a fork of
it becomes the program.

The program must end with its mount. A process in the engine's mount namespace would keep that
namespace alive, and with it the mount and itself, for ever. So the program gets a mount namespace
of its own, which never contains the mount. When every process of the container is gone, even by
SIGKILL, the kernel ends the mount, and the program reads ENODEV and exits.
"""

from __future__ import annotations

import os
import time

from rootless.errors import RlessError, SyscallError
from rootless.linux import caps, ns, prctl, process, unix
from rootless.linux import mount as mounts
from rootless.linux.process import own_program
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

_HELPER = "rless-serve"
_HELPER_RIGHTS = ["CAP_SETPCAP", "CAP_SYS_ADMIN"]
_LOG_LIMIT = 4096
_END_SECONDS = 5.0


class Server:
    """A program that serves a file system, as a child of the caller.

    Attributes:
        name: of the program.
        pid: of the child; 0: there is none yet, or it has been waited for.
    """

    __slots__ = (
        *("_arguments", "_environment", "_flags", "_keep_fd", "_link", "_log_fd", "_privileged"),
        *("_program", "_told", "_words", "name", "pid"),
    )

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        log_fd: int,
        *,
        flags: int = 0,
        environment: dict[str, str] = process.HELPER_ENVIRONMENT,
        privileged: bool,
        keep_fd: int = -1,
        holder: int = -1,
    ) -> None:
        """Begin what will be `program ARGUMENTS /dev/fd/N`, as far as that can be done now.

        Args:
            log_fd: takes what the program says; it is the server's from now on.
            flags: more MOUNT_ATTR_*; MOUNT_ATTR_NODEV is always there.
            environment: of the program.
            privileged: the program keeps the capabilities over files of mapped ids; else it has
                none, no socket, and no way to reach another process.
            keep_fd: a descriptor that it gets beside that of the mount.
            holder: the pid of a process that will be in the user namespace, a child of the
                caller's, which is still outside and will be in there when it calls `attach`;
                -1: the caller is in there already.

        Raises:
            RlessError: the installation is broken.
        """
        self.name = program.rpartition("/")[2]
        self.pid = 0
        self._program = program
        self._arguments = arguments
        self._log_fd = log_fd
        self._flags = flags | mounts.MOUNT_ATTR_NODEV
        self._environment = environment
        self._privileged = privileged
        self._keep_fd = keep_fd
        self._link = -1
        self._told = False
        self._words = b""
        if not privileged:
            self._spawn(holder)

    def mount(self) -> None:
        """Have rless-serve go on, if it was begun: ids are mapped. `attach` may come much later."""
        if self._link >= 0 and not self._told:
            self._told = True
            self._tell(b"g" + self._words)

    def prefetch(self, words: bytes) -> None:
        """Have rless-serve ask for what will be wanted (`ahead`), as soon as there is the mount.

        Wait for nothing. Once at most, and before `attach`.
        """
        self._words = words
        if self._told:
            self._tell(words)

    def _tell(self, words: bytes) -> None:
        if self._link >= 0:
            try:
                os.write(self._link, words)
            except BrokenPipeError:
                pass  # it has ended: `attach` finds out, and tells why

    def attach(self, target: str) -> None:
        """Show the mount at `target`, and wait for the program.

        Raises:
            SyscallError: FUSE cannot be used here. The child is gone then.
            RlessError: the program has ended; what it said.
        """
        self.mount()
        try:
            mount_fd = self._fork() if self._privileged else self._receive()
            try:
                target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    mounts.move_mount(mount_fd, target_fd)
                finally:
                    os.close(target_fd)
            finally:
                os.close(mount_fd)
            try:
                os.stat(target)
            except OSError as error:
                mounts.umount(target)
                said = _last_line(self._log_fd) or error.strerror
                raise RlessError(f"{self.name} ended: {said}") from error
        except BaseException:
            self.end()
            raise
        self._close()

    def end(self) -> None:
        """End the program, and with it the mount."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self._close()

    def _close(self) -> None:
        for fd in (self._link, self._log_fd):
            if fd >= 0:
                os.close(fd)
        self._link = self._log_fd = -1

    # -- by rless-serve --------------------------------------------------------------------------

    def _spawn(self, holder: int) -> None:
        """Start it."""
        pidfd = process.pidfd_open(holder) if holder >= 0 else -1
        link, theirs = unix.pair(unix.SOCK_STREAM)
        numbers = (theirs, pidfd, self._keep_fd, self._flags)
        words = [_HELPER, *map(str, numbers)]
        words += [f"{name}={value}" for name, value in self._environment.items()]
        words += [self._program, self.name, *self._arguments]
        words.append(f"/dev/fd/{theirs}")
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, self._log_fd, 1),
            (os.POSIX_SPAWN_DUP2, self._log_fd, 2),
            # To itself: it stays open over execve.
            *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in (theirs, pidfd, self._keep_fd) if fd >= 0),
        ]

        def start() -> int:
            return os.posix_spawn(
                own_program(_HELPER),
                words,
                {},
                file_actions=actions,
                setsigmask=(),
                setsigdef=process.HELPER_SIGNALS,
            )

        try:
            if pidfd >= 0:
                self.pid = start()
            else:
                with caps.Lent(caps.mask(_HELPER_RIGHTS)):
                    self.pid = start()
        except OSError as error:
            os.close(link)
            self._close()
            raise process.cannot_execute(_HELPER, error) from error
        finally:
            os.close(theirs)
            if pidfd >= 0:
                os.close(pidfd)
        self._link = link

    def _receive(self) -> int:
        """Return the mount that it has made."""
        link, self._link = self._link, -1
        try:
            return unix.receive_fd(link)
        except OSError as error:
            said = _last_line(self._log_fd)
            call, _, number = said.rpartition(": error ")
            if number.isdigit():
                raise SyscallError(call, int(number)) from error
            raise RlessError(f"{_HELPER} ended: {said or error.strerror}") from error

    # -- by a fork -------------------------------------------------------------------------------

    def _fork(self) -> int:
        """Make the mount, and fork a child that becomes the program; return the mount."""
        from rootless.linux.exec_helper import exec_helper

        try:
            fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError("open(/dev/fuse)", error.errno or 0) from error
        wait_fd, go = os.pipe()
        apart, apart_fd = os.pipe()  # gets a word once no mount of ours can reach the child
        argv = [self.name, *self._arguments, f"/dev/fd/{fuse_fd}"]

        def serve() -> NoReturn:
            os.close(go)
            os.setsid()  # a key of the terminal must not end it
            ns.unshare(ns.CLONE_NEWNS)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            os.write(apart_fd, b"+")
            # The groups stay: the storage may be reachable by one of them only.
            process.become_root(keep_groups=True)
            caps.keep_over_exec()
            os.chdir("/")
            if os.read(wait_fd, 1) != b"g":
                os._exit(70)  # who was to mount it has ended
            os.execve(self._program, argv, self._environment)

        self.pid = os.fork()
        if self.pid == 0:
            keep = (fuse_fd,) if self._keep_fd < 0 else (fuse_fd, self._keep_fd)
            exec_helper(serve, self._log_fd, self._log_fd, keep)
        os.close(wait_fd)
        os.close(apart_fd)
        try:
            mount_fd = mounts.new_mount("fuse", self._options(fuse_fd), self._flags)
            try:
                os.write(go, b"g")
            except BrokenPipeError:
                pass  # it has ended: `attach` finds out, and tells why
            os.read(apart, 1)  # else its namespace could have a copy of the mount
            return mount_fd
        finally:
            for fd in (fuse_fd, go, apart):
                os.close(fd)

    def _options(self, fuse_fd: int) -> list[tuple[str, str | None]]:
        # Other users than the one that mounts: the container's. The kernel checks modes itself.
        options: list[tuple[str, str | None]] = [
            ("source", self.name),
            ("subtype", self.name),
            ("fd", str(fuse_fd)),
            ("rootmode", "40000"),
            ("user_id", str(os.geteuid())),
            ("group_id", str(os.getegid())),
            ("default_permissions", None),
            ("allow_other", None),
        ]
        if self._flags & mounts.MOUNT_ATTR_RDONLY:
            options.append(("ro", None))
        return options


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
