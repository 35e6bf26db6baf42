"""The network of a build: one network namespace for all its RUNs, made when the first one asks.

The builder stays in the host's network. A RUN is in a network namespace of its own (none), in that
of the build (default), or in none but the host's (host). That of the build is made, and served by
pasta, on the host's side: there the newcomers are children of the build process, which end with it.

    step process                              build process, on the host
      | -- a byte ----------------------------> |  the first time: holder, pasta, wait
      | <-- "" and the namespace, or the error -|
      |  enters it

All step processes share one socket. All answers are alike, so each may take any of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless import jsontext
from rootless.engine.spec import network_mode
from rootless.errors import RlessError, SyscallError
from rootless.linux import ns, unix
from rootless.linux.namespace_holder import Holder
from rootless.linux.network import netlink

if TYPE_CHECKING:
    from rootless.engine.request import RunRequest
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta

_MESSAGE = 64 << 10  # bytes; an error with its hint


class Client:
    """The step's end; it is inherited over the forks."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._is_in = False

    def enter(self, ids: IdMap, gid: int) -> None:
        """Enter the network namespace of the build, for good: there is no way back to the host's.

        Once in a process; from then on only pings are seen to.

        Args:
            ids: of the build. gid: of the application, which may send pings.

        Raises:
            RlessError: the network could not be made.
        """
        if not self._is_in:
            self._join()
            self._is_in = True
        network_mode.allow_ping(ids, gid)

    def _join(self) -> None:
        try:
            os.write(self.fd, b"?")
            message, fds = unix.receive(self.fd, _MESSAGE, 1)
        except OSError as error:
            raise RlessError(f"the network cannot be asked for: {error.strerror}") from error
        if not fds:
            said = jsontext.loads(message) if message else ["the build has ended", None]
            raise RlessError(*said)
        try:
            ns.setns(fds[0], ns.CLONE_NEWNET)
        finally:
            os.close(fds[0])


def enter_empty(ids: IdMap, gid: int) -> None:
    """Enter a new network namespace, which has the loopback only; the arguments are `enter`'s."""
    ns.unshare(ns.CLONE_NEWNET)
    netlink.loopback_up()
    network_mode.allow_ping(ids, gid)


class Network:
    """The end of the build process.

    Attributes:
        fd: readable when a step process asks; then call `answer`.
        client: for the builder, which is forked after this was made.
    """

    def __init__(self, settings: RunRequest) -> None:
        """Prepare it; nothing is begun yet.

        Raises:
            RlessError: a mode that a build cannot have.
        """
        mode = settings.network or "pasta"
        if settings.networks or mode.partition(":")[0] not in ("pasta", "none", "host"):
            raise RlessError(
                f"--network={mode} is not supported for a build",
                "use default, none, host or pasta:OPTIONS",
            )
        self._settings = settings
        self.fd, client = unix.pair(unix.SOCK_SEQPACKET)
        self.client = Client(client)
        self._pasta: Pasta | None = None
        self._namespace = -1
        self._error: RlessError | None = None

    def answer(self, builder: int) -> None:
        """Answer one question.

        Args:
            builder: pid of a process in the build's user namespace, with its map written.
        """
        try:
            if not os.read(self.fd, 1):
                return
            if self._namespace < 0 and self._error is None:
                try:
                    self._begin(builder)
                except RlessError as error:
                    self._error = error
            if self._error is not None:
                said = [self._error.message, self._error.hint]
                os.write(self.fd, jsontext.dumps(said).encode("utf-8", "backslashreplace"))
            else:
                unix.send(self.fd, b"+", [self._namespace])
        except (BrokenPipeError, ConnectionResetError):
            pass  # who has asked has ended

    def _begin(self, builder: int) -> None:
        """Make the namespace in the build's user namespace, and have pasta serve it."""
        pasta = network_mode.prepare(self._settings, ())
        assert pasta is not None
        holder = None
        try:
            interface = [pasta.interface, network_mode.guard(self._settings), pasta.mac]
            user = f"/proc/{builder}/ns/user"
            holder = Holder(ns.CLONE_NEWNET, join=user, interface=interface)
            pasta.fork(die_with_parent=True)
            holder.wait_made()
            proc = f"/proc/{holder.pid}/ns"
            pasta.begin(f"{proc}/net", f"{proc}/user")
            pasta.wait_ready()
            self._namespace = os.open(f"{proc}/net", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException as error:
            pasta.stop()
            if isinstance(error, SyscallError):
                from rootless.network import loopback_guard

                raise loopback_guard.explain(error) from error
            raise
        finally:
            if holder is not None:
                holder.close()
        self._pasta = pasta

    def forget_client(self) -> None:
        """Close the builder's end in the build process, after the fork."""
        os.close(self.client.fd)

    def close(self) -> None:
        """End the network."""
        if self._pasta is not None:
            self._pasta.stop()
            self._pasta = None
        for fd in (self._namespace, self.fd):
            if fd >= 0:
                os.close(fd)
        self._namespace = self.fd = -1
