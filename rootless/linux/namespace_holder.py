"""New namespaces, a user namespace first, which a small process keeps until the caller enters them.

newuidmap(1) must run outside of the namespace whose ids it maps, and so must everything that the
caller does with its rights on the host. So another process makes the namespaces: the namespace
holder, rless-userns-holder (helpers/userns_holder).
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, ns
from rootless.linux.process import (
    HELPER_SIGNALS,
    cannot_execute,
    own_program,
    pidfd_open,
    read_exactly,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.linux.idmap import Helper, IdMap

_PROGRAM = "rless-userns-holder"
_DONE = b"+"
_LONGEST = 256  # bytes of what it says of a failure


class Holder:
    """The process that holds them. It ends with the caller.

    Attributes:
        pid: ours to wait for.
    """

    __slots__ = ("_awaited", "_flags", "_helpers", "_joins", "_release_fd", "_status_fd", "pid")

    def __init__(
        self,
        flags: int,
        inside: str | None = None,
        join: str | None = None,
        interface: Sequence[str] = (),
        begun: str = "",
    ) -> None:
        """Begin it, or take the one that the launcher has begun.

        Args:
            flags: CLONE_NEW* of what is made beside the user and the mount namespace.
            inside: /proc/PID/ns/user of one in which it is made; then who writes the maps must be
                in there too.
            join: the same of one that is taken, in place of a new one.
            interface: of one for pasta that is made in the new network namespace: its name, its
                guard, and its hardware address, "" for any (helpers/userns_holder/main.c).
            begun: "PID STATUS_FD RELEASE_FD" of that one, which has made a user, a mount and a
                network namespace; "": there is none, or others are wanted.

        Raises:
            RlessError: what is to be joined has ended, or the installation is broken.
        """
        self._joins = join is not None
        self._flags = flags | ns.CLONE_NEWUSER | ns.CLONE_NEWNS
        self._helpers: list[Helper] = []
        self._awaited = 2 if interface else 1
        if begun:
            self.pid, self._status_fd, self._release_fd = map(int, begun.split())
            for fd in (self._status_fd, self._release_fd):
                os.set_inheritable(fd, False)  # as they were over the launcher's execve
            self._ask_for(interface)
            return
        outer = -1
        if path := join or inside:
            try:
                outer = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise RlessError(
                    f"cannot join the container's namespaces: {error.strerror}"
                ) from error
        self._status_fd, status_fd = os.pipe()
        release_fd, self._release_fd = os.pipe()
        make = self._flags & ~ns.CLONE_NEWUSER if self._joins else self._flags
        words = [_PROGRAM, *map(str, (status_fd, release_fd, make, outer))]
        # To themselves: they stay open over execve.
        kept = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (status_fd, release_fd, outer) if fd >= 0]
        try:
            self.pid = os.posix_spawn(
                own_program(_PROGRAM), words, {}, file_actions=kept, setsigdef=HELPER_SIGNALS
            )
        except OSError as error:
            self.end()
            raise cannot_execute(_PROGRAM, error) from error
        finally:
            for fd in (status_fd, release_fd, outer):
                if fd >= 0:
                    os.close(fd)
        self._ask_for(interface)

    def _ask_for(self, interface: Sequence[str]) -> None:
        if not interface:
            return
        try:
            os.write(self._release_fd, " ".join(interface).encode())
        except BrokenPipeError:
            pass  # it has failed: `wait_made` tells

    def wait_made(self) -> None:
        """Wait until the namespaces are there, and what was to be made in them.

        Raises:
            SyscallError: unshare(2) or setns(2) failed, or a call about the interface.
        """
        if self._status_fd < 0:
            return
        said = read_exactly(self._status_fd, self._awaited)
        if said != _DONE * self._awaited:
            said += read_exactly(self._status_fd, _LONGEST)
            number, _, call = said.decode().lstrip("+").partition(" ")
            raise SyscallError(call or ("setns" if self._joins else "unshare"), int(number or 0))
        os.close(self._status_fd)
        self._status_fd = -1

    def begin_maps(self, ids: IdMap, write: Callable[[int, IdMap], None] | None = None) -> None:
        """Begin to write the id maps; a user namespace that is joined has them.

        Args:
            write: what writes them, where that is somebody else's: called with the pid.

        Raises:
            SyscallError: see `wait_made`.
            RlessError: the maps cannot be written.
        """
        self.wait_made()
        if self._joins:
            return
        if write is not None:
            write(self.pid, ids)
        else:
            self._helpers = idmap.begin_maps(self.pid, ids)

    @property
    def is_mapped(self) -> bool:
        """Tell whether nobody is at work at the maps any more; after `begin_maps`."""
        return not self._helpers

    def enter(self) -> None:
        """Wait for the maps, and enter.

        What the host mounts later still arrives in the mount namespace; nothing goes back. The
        caller has all capabilities in the user namespace, and still its own id.

        Raises:
            RlessError: the maps were refused.
            SyscallError: of setns(2).
        """
        helpers, self._helpers = self._helpers, []
        idmap.finish_maps(helpers)
        try:
            directory = os.getcwd()
        except OSError:
            directory = "/"  # it was removed
        pidfd = pidfd_open(self.pid)
        try:
            ns.setns(pidfd, self._flags)
        finally:
            os.close(pidfd)
        os.chdir(directory)  # setns(2) went to the root

    def end(self) -> None:
        """Have the process end; what it holds is gone then, unless it was entered."""
        for fd in (self._status_fd, self._release_fd):
            if fd >= 0:
                os.close(fd)
        self._status_fd = self._release_fd = -1

    def close(self) -> None:
        """Have the process end, and wait for that."""
        self.end()
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0
        helpers, self._helpers = self._helpers, []
        try:
            idmap.finish_maps(helpers)
        except RlessError:
            pass  # it is given up anyway


def end_begun(begun: str) -> None:
    """End the one that the launcher has begun (`Holder`), which is not what is wanted."""
    pid, *fds = map(int, begun.split())
    for fd in fds:
        os.close(fd)
    os.waitpid(pid, 0)
