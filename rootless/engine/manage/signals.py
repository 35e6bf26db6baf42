"""Hold running containers, send them signals, and wait for their ends.

Theory of operation. A container runs exactly as long as its monitor does: when the monitor has
ended, everything is recorded and cleaned up. So to wait for a container is to wait for its monitor,
by pidfd. Signals go through the monitor, because it may signal every id of the container and this
process may not. Only if no monitor answers do they go to the first process directly. A sender waits
until a start in progress has reached its application.
"""

from __future__ import annotations

import errno
import os
import select
import time

from rootless.engine.state import events
from rootless.engine.state.container import Container, is_alive, is_owned, signal_process
from rootless.engine.state.monitor_client import connect
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.state.monitor_client import Client
    from rootless.engine.state.records import Process

_FIRST_LOOK = 0.002  # seconds between two looks at a start that is under way; doubled each time
LAST_LOOK = 0.1
_ASK_AGAIN = 50.0  # ms between two looks whether an application has a handler now
_START_TIME = 60.0  # seconds that a start may take before a stop gives up


class Running:
    """A running container, with its monitor held so that no other process can be mistaken for it.

    Attributes:
        fd: readable when the container may have ended.
        monitor, pasta: (pid, start time); no pasta: None.
        deadline: when it is killed; None: never.
        lost: a signal that it had no handler for, which is sent again once it has one; 0: none.
    """

    __slots__ = (
        "_down",
        "_end_fd",
        "_sent",
        "client",
        "container",
        "deadline",
        "lost",
        "monitor",
        "pasta",
    )

    def __init__(self, container: Container, monitor: Process, pasta: Process | None) -> None:
        self.container = container
        self.monitor = monitor
        self.pasta = pasta
        self._down, self._sent, self.lost = False, 0, 0
        self.client: Client | None = connect(container)
        self._end_fd = _open_process(self.monitor)
        self.deadline: float | None = None

    @property
    def fd(self) -> int:
        return self._end_fd if self.client is None else self.client.fd

    def has_ended(self) -> bool:
        """Tell, once `fd` can be read, whether the container has ended and all is recorded.

        The monitor reports it; a monitor that ends without a report has ended the container too.
        After the report it may live on for a while, for slow readers.
        """
        if self.client is None:
            return True
        if self.client.wait(0) is not None:
            return True
        if self.client.gone:
            self.client.close()
            self.client = None
            if is_alive(self.monitor):
                self._ask_again()
        return False

    def _ask_again(self) -> None:
        """Connect anew, after the monitor has executed another program to restart the container.

        A request that it got meanwhile is lost with the connection.
        """
        self.client = connect(self.container)
        if self.client is not None:
            if self._down:
                self.client.stop_restarts()
            if self._sent:
                self.client.forward(self._sent)

    def signal(self, number: int) -> bool:
        """Signal the container's first process; one that has ended is no error.

        Returns:
            False: it was not the application yet.
        """
        self._sent = number
        # Before it is sent: the monitor may tell of the end at once.
        events.of_container("kill", self.container, signal=number)
        if self.client is not None:
            try:
                return self.client.signal(number)
            except RlessError:
                return True  # it has ended, or is between two starts
        init = self.container.init()
        if init is not None:
            signal_process(init, number)
        return True

    def ask(self, number: int) -> None:
        """Signal the first process, and note a signal that was lost because it has no handler.

        Process 1 of a pid namespace loses each signal that it has no handler for, so an application
        that is just starting would miss a stop. The check comes after the signal: if there is no
        handler then, there was none when the signal arrived.
        """
        heard = self.signal(number) and self._catches(number)
        self.lost = 0 if heard or number == signal.SIGKILL else number

    def ask_again(self) -> None:
        """Signal it once more, if it has a handler for the lost signal by now."""
        if self.lost and self._catches(self.lost):
            self.ask(self.lost)

    def _catches(self, number: int) -> bool:
        """Tell whether the first process catches a signal, or has blocked it."""
        init = self.container.init()
        if init is None:
            return False
        try:
            with open(f"/proc/{init[0]}/status", "rb") as file:
                lines = [line for line in file if line.startswith((b"SigBlk:", b"SigCgt:"))]
        except OSError:
            return False  # it has just ended
        return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)

    def end(self, number: int) -> None:
        """Send a signal that is to end the container for good."""
        self._down = True
        if self.client is not None:
            self.client.stop_restarts()
        self.ask(number)
        if self.container.status()[0] == "paused":  # else it could not handle the signal
            from rootless.engine.manage.pause import thaw

            thaw(self.container)

    def close(self) -> None:
        """Release the container."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self._end_fd >= 0:
            os.close(self._end_fd)
            self._end_fd = -1


def _open_process(process: Sequence[int] | None) -> int:
    """Return a pidfd of a process known by pid and start time; -1: it has ended."""
    if not process:
        return -1
    try:
        pidfd = pidfd_open(process[0])
    except SyscallError:
        return -1
    if is_alive((process[0], process[1])):
        return pidfd
    os.close(pidfd)
    return -1


def take(container: Container) -> Running | None:
    """Hold a container that runs, or waits for a restart; None: it does neither.

    A start in progress is waited for.

    Raises:
        RlessError: that start takes too long.
    """
    pause, deadline = _FIRST_LOOK, time.monotonic() + _START_TIME
    while True:
        record = container.run_record()
        if not is_owned(record):
            return None  # it is not there, or was killed: `reconcile`'s
        if record.get("removing"):
            return None
        monitor = record.get("monitor")
        if monitor and is_alive(monitor) and record.get("init"):
            held = Running(container, monitor, record.get("pasta"))
            if held.fd >= 0:
                return held
            held.close()
            continue  # it ended just now
        if time.monotonic() > deadline:
            raise RlessError(
                f"container {container.facts['name']} is being started, but does not come up",
                "rless rm -f removes it",
                1,
            )
        time.sleep(pause)
        pause = min(2 * pause, LAST_LOOK)


class Ends:
    """Wait for several containers to end, and kill each one that is late."""

    def __init__(self) -> None:
        self._waiting: list[Running] = []

    def add(self, running: Running, seconds: float | None) -> None:
        """Wait for this container, too, and kill it after `seconds`; None: never."""
        running.deadline = None if seconds is None else time.monotonic() + seconds
        self._waiting.append(running)

    def wait_for(self, running: Running) -> None:
        """Wait until this container has ended; late ones of the others are killed meanwhile."""
        while running in self._waiting:
            poll = select.poll()
            for other in self._waiting:
                poll.register(other.fd, select.POLLIN)
            due = [other.deadline for other in self._waiting if other.deadline is not None]
            left = None if not due else max(0.0, 1000 * (min(due) - time.monotonic()))
            if any(other.lost for other in self._waiting):
                left = _ASK_AGAIN if left is None else min(left, _ASK_AGAIN)
            ready = {fd for fd, _ in poll.poll(left)}
            now = time.monotonic()
            for other in self._waiting[:]:
                other.ask_again()
                if other.fd in ready and other.has_ended():
                    self._waiting.remove(other)
                elif other.deadline is not None and other.deadline <= now:
                    other.deadline, other.lost = None, 0
                    other.signal(signal.SIGKILL)
        running.close()
        clear_dead(running.container)
        _tell_of_pasta(running)

    def wait_down(self, running: Running, number: int) -> None:
        """Wait until one that was asked to end is down for good."""
        self.wait_for(running)
        # It may have ended by itself just before it was asked, and been started by its policy.
        again = take(running.container)
        if again is not None and again.monitor == running.monitor:
            again.end(number)
            self.add(again, 0.0)
            self.wait_for(again)
        elif again is not None:
            again.close()  # somebody has started it since


def _tell_of_pasta(running: Running) -> None:
    """Say so if pasta cannot be ended: its AppArmor profile may take no signal of ours.

    Else it has been killed, and may be going still.
    """
    if running.pasta is None or not is_alive(running.pasta):
        return
    try:
        signal_process(running.pasta, signal.SIGKILL)
    except SyscallError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        from rootless import log

        log.warn(
            f"pasta of container {running.container.facts['name']} goes on and keeps its ports: "
            f"process {running.pasta[0]} takes no signal from rless: {os.strerror(error.errno)}; "
            "docs/network.md says what AppArmor needs"
        )


def clear_dead(container: Container) -> None:
    """Clean up after the monitor, if it was killed."""
    record = container.run_record()
    if record and not is_owned(record):
        from rootless.engine.state import reconcile

        reconcile.clear(container)
