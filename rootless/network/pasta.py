"""The default network: one pasta for each container, as a process of the user on the host.

pasta opens a tap device in the container's network namespace, and forwards its packets through
ordinary sockets of the host. It needs no privilege, and outgoing connections work as those of any
program of the user.

By default pasta also lets the container reach services on the host's 127.0.0.1, in two ways: by the
gateway's address, and by the container's own 127.0.0.1 (security class 38). `pasta_options` closes
both; `rootless.network.loopback_guard` closes a third one in the container.

Theory of operation:

- pasta stays in the foreground, in a session of its own, because Ctrl-C is for the application. It
  is a child of the process that keeps the container. With `die_with_parent` the kernel ends it with
  that process, whatever ends that one. So its pid cannot be recycled unnoticed either.
- pasta reports that it is ready by writing its "pid file", which is a pipe to us. It does so in the
  foreground as well, after everything is configured, in every version.
- pasta takes 25 to 45 ms to end, because the kernel has to remove the tap device. Nobody waits for
  that, unless ports are published: pasta holds them until it has ended.
- Until its namespaces are there, a small program waits in its place, rless-pasta
  (helpers/pasta.c).
- pasta needs the default action of SIGPIPE. Python ignores the signal, children inherit that, and
  pasta's version of 2023 gives up ("Couldn't install signal handlers").
"""

from __future__ import annotations

import errno
import os
import select
import time

from rootless.errors import RlessError, SyscallError
from rootless.linux import process
from rootless.linux.signals import signal
from rootless.network.pasta_options import command, interface, mac_address, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.network.ports import Port, Taken

_PROGRAM = "rless-pasta"
_ALTERNATIVE = "use --network=host or --network=none"


class Pasta:
    """One pasta, from before its namespaces exist until it is told to end.

    The constructor makes the pipes, so one process can `fork` pasta and be its parent, and another
    can `begin` it and wait for it. A process that does neither calls `close`.

    Attributes:
        interface, mac: the name and the hardware address of the container's interface; "": pasta
            chooses, or refuses.
        pid: 0 until it is known: after `fork` in that process, after `wait_ready` in others.
        ports: what it publishes, as `ports.Taken` shows it.
    """

    __slots__ = (
        "_arguments",
        "_errors",
        "_go",
        "_parent",
        "_ready",
        "_said",
        "_taken",
        "interface",
        "mac",
        "pid",
        "pidfd",
        "ports",
    )

    def __init__(self, arguments: list[str], taken: Taken | None = None) -> None:
        self._arguments = arguments
        self._go = os.pipe()
        self._ready = os.pipe()
        self._errors = os.pipe()
        self._parent = 0
        self._said = b""
        self._taken = taken
        self.ports = taken.shown if taken is not None else []
        self.interface = interface(arguments)
        self.mac = mac_address(arguments)
        self.pid = 0
        self.pidfd = -1

    def fork(self, die_with_parent: bool) -> None:
        """Start the process that becomes pasta; it waits for `begin`.

        Where it runs: in the host's network namespace: so before an unshare(CLONE_NEWNET).

        Raises:
            RlessError: the installation is broken.
        """
        parent = os.getpid()
        words = [_PROGRAM, str(parent if die_with_parent else 0), *self._arguments]
        ends = (self._go[0], self._ready[1], self._errors[1])
        try:
            self.pid = os.posix_spawn(
                process.own_program(_PROGRAM),
                words,
                process.HELPER_ENVIRONMENT,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(ends)],
                setsigdef=process.HELPER_SIGNALS,
                setsigmask=(),
            )
        except OSError as error:
            raise process.cannot_execute(_PROGRAM, error) from error
        # The ends that are only pasta's: while anybody else has them its end is not seen.
        self._go = _without(self._go, 0)
        self._ready = _without(self._ready, 1)
        self._errors = _without(self._errors, 1)
        self._parent = parent
        self.pidfd = process.pidfd_open(self.pid)

    def begin(self, netns_path: str, userns_path: str) -> None:
        """Tell the waiting process which namespaces to serve; they must be mapped by now."""
        message = f"{netns_path}\n{userns_path}\n".encode("utf-8", "surrogateescape")
        try:
            os.write(self._go[1], message)
        except BrokenPipeError:
            pass  # it died: wait_ready tells
        self._close("_go")

    def detach_ready(self) -> int:
        """Return the pipe that says when the network is up; close all others of ours."""
        fd = os.dup(self._ready[0])
        self.close()
        return fd

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the container's network is up.

        Raises:
            RlessError: it was not within `timeout` seconds, or pasta gave up: its last line.
        """
        self._close("_go")
        self._ready = _without(self._ready, 1)
        self._errors = _without(self._errors, 1)
        ready_fd, errors_fd = self._ready[0], self._errors[0]
        poll = select.poll()
        poll.register(ready_fd, select.POLLIN)
        poll.register(errors_fd, select.POLLIN)
        number = b""
        deadline = time.monotonic() + timeout
        try:
            while not number.endswith(b"\n"):
                events = poll.poll(max(0, int(1000 * (deadline - time.monotonic()))))
                if not events:
                    raise RlessError(
                        f"the network was not ready after {timeout:g} seconds", _ALTERNATIVE
                    )
                for fd, _ in events:
                    chunk = os.read(fd, 4096)
                    if fd == errors_fd:
                        self._said = (self._said + chunk)[-4096:]
                        if not chunk:
                            poll.unregister(fd)
                    elif chunk:
                        number += chunk
                    else:
                        raise self._failure(errors_fd)
        finally:
            self.close()
        if self.pid == 0:
            self.pid = int(number)
            self.pidfd = process.pidfd_open(self.pid)

    def _failure(self, errors_fd: int) -> RlessError:
        """Return what pasta said before it gave up, in one line."""
        while chunk := os.read(errors_fd, 4096):
            self._said = (self._said + chunk)[-4096:]
        lines = self._said.decode("utf-8", "replace").splitlines()
        return RlessError(
            f"the network could not be made: pasta: {last_message(lines)}", _hint(lines)
        )

    def stop(self, wait: bool = False) -> None:
        """End pasta at once; it has nothing to save.

        Args:
            wait: until it is gone, and the tap device with it; only in its parent.
        """
        self.close()
        if self.pidfd < 0:
            return
        try:
            process.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except SyscallError as error:
            if error.errno != errno.ESRCH:
                raise
        if self._parent == os.getpid():
            try:
                os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:
                pass
        os.close(self.pidfd)
        self.pidfd = -1

    def close(self) -> None:
        """Close the pipes: a process that waits for `begin` ends then."""
        for name in ("_go", "_ready", "_errors"):
            self._close(name)
        if self._taken is not None:
            self._taken.close()

    def _close(self, name: str) -> None:
        for fd in getattr(self, name):
            if fd >= 0:
                os.close(fd)
        setattr(self, name, (-1, -1))


def _without(pair: tuple[int, int], end: int) -> tuple[int, int]:
    """Close one end of a pipe, if it is open; return the pair without it."""
    if pair[end] >= 0:
        os.close(pair[end])
    return (-1, pair[1]) if end == 0 else (pair[0], -1)


def last_message(lines: Sequence[str]) -> str:
    """Return the line that says why pasta gave up, without its time stamp.

    The version of 2023 complains about a missing syslog after each message, others about a
    missing variant of the program: that is not why.
    """
    for line in reversed(lines):
        text = line.strip()
        stamp, colon, rest = text.partition(": ")
        if colon and stamp.replace(".", "").isdigit():
            text = rest
        if text and not any(word in text for word in ("syslog", "AVX2")):
            return text.removesuffix(", exiting")
    return "it ended without a word"


def _hint(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if "Overlapping" in text:
        return "this version of pasta can publish a port on one address or on all, not on some"
    if "bind" in text:
        return "somebody was faster and has the port now: publish on another one"
    if "/dev/net/tun" in text:
        return f"ask the administrator for `modprobe tun`, or {_ALTERNATIVE}"
    return f"see `rless doctor`, or {_ALTERNATIVE}"


def prepare(
    ports: Sequence[Port],
    options: Sequence[str] = (),
    *,
    ip: str | None = None,
    ip6: str | None = None,
    mac: str | None = None,
) -> Pasta:
    """Return a pasta that can be started; its ports are taken.

    Raises:
        RlessError: see `pasta_options.command` and `ports.take`.
    """
    program()
    taken = None
    if ports:
        from rootless.network.ports import take

        taken = take(ports)
    try:
        return Pasta(command(ports, options, ip=ip, ip6=ip6, mac=mac), taken)
    except BaseException:
        if taken is not None:
            taken.close()
        raise
