"""`run` and `exec` in the foreground: forward signals and return the exit code.

All signals that can be caught are forwarded, so stopping this command stops the process.
"""

from __future__ import annotations

import select

from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_send_signal
from rootless.linux.signals import clear_wakeups, signal, wakeups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from rootless.runtime.host.console import Console
    from rootless.runtime.host.sdnotify import Relay

# About ourselves, or not to be caught.
_OURS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG})


def forward_signals(send: Callable[[int], None]) -> None:
    """Have every signal that this process gets from now on sent to another one."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            send(number)
        except RlessError:
            pass  # it has just ended

    for number in signal.valid_signals() - _OURS:
        try:
            signal.signal(number, forward)
        except (OSError, ValueError):
            continue  # the C library keeps two for itself


def attend(pidfd: int, pid: int, console: Console | None, relay: Relay | None) -> None:
    """Wait for the end of a process; pass on meanwhile what its terminal or its socket says."""
    while True:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(wakeups(), select.POLLIN)
        if relay is not None:
            poll.register(relay.fd, select.POLLIN)
        if console is not None:
            for fd in console.fds():
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll()]
        if wakeups() in ready:
            clear_wakeups()
        if console is not None:
            for fd in ready:
                if fd in console.fds():
                    console.pass_on(fd)
        if relay is not None and relay.fd in ready and relay.pass_on(pid):
            relay.close()
            relay = None
        if pidfd in ready:
            if console is not None:
                console.drain()
            return


def send_by(pidfd: int) -> Callable[[int], None]:
    """Return what sends a signal to the process behind a pidfd."""

    def send(number: int) -> None:
        try:
            pidfd_send_signal(pidfd, number)
        except SyscallError as error:
            raise RlessError("it has ended") from error

    return send
