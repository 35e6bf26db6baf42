"""A container in the foreground process, from its start to its end or until the user detaches.

`ForegroundParent` is a foreground process that has forked its start process and waits for the
container from it. `AttachedContainer` is that container. The launcher uses it as well, by
`cli.foreground`, where it cannot go on in C.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux import unix
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rootless.engine.attach.streams import Signals
    from rootless.engine.attach.terminal import Terminal
    from rootless.engine.state.container import Container
    from rootless.engine.state.monitor_client import Client

KILLED = "the container's monitor was killed, and the container with it"
_LONGEST = 65536  # bytes of a message


class ForegroundParent:
    """A foreground process that has forked its start process, until it gets the container."""

    def __init__(self, fd: int, pid: int) -> None:
        self._fd = fd
        self._pid = pid

    def follow(self) -> int:
        message, fds = self._receive()
        if message[:1] != b"A":
            return self._answer(message)
        try:
            os.write(self._fd, b"a")
        except OSError:
            pass  # it has failed meanwhile, and has said why
        link = fds.pop(0)
        pipes = [fds.pop(0) if message[1] & bit else -1 for bit in (1, 2, 4)]
        facts = jsontext.loads(message[2:].partition(b"\0")[2])
        followed = AttachedContainer(
            link, (pipes[0], pipes[1], pipes[2]), self._pid, facts, self.why
        )
        return followed.follow()

    def why(self) -> int:
        """Return the exit code that the start process reports at its end, or raise its error."""
        message, _ = self._receive()
        return self._answer(message)

    def _answer(self, message: bytes) -> int:
        kind, rest = message[:1], message[1:]
        if not message:
            return _code(_wait(self._pid))
        if kind == b"E":
            raise RlessError(*jsontext.loads(rest))
        return int.from_bytes(rest, "little", signed=True)

    def _receive(self) -> tuple[bytes, list[int]]:
        while True:
            try:
                return unix.receive(self._fd, _LONGEST, 4)
            except KeyboardInterrupt:
                os.kill(self._pid, signal.SIGINT)  # ours, and not waited for
            except ConnectionResetError:
                continue  # it has not read all of ours; what it said is there


def _wait(pid: int) -> int:
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0  # it was waited for


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


class InterruptedStartError(Exception):
    """A signal to end the command arrived before the application ran."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class AttachedContainer:
    """A container that the foreground process has taken over from its start process.

    Attributes:
        begun: its application has started to run.
    """

    def __init__(
        self,
        link: int,
        pipes: tuple[int, int, int],
        pid: int,
        facts: dict[str, Any],
        why: Callable[[], int] | None = None,
    ) -> None:
        """Take the container over.

        Args:
            link: the socket to the monitor.
            pipes: stdin, stdout, stderr; -1: there is none.
            pid: the start process, later the monitor; a child of this process.
            facts: see `Foreground.hand_over`.
            why: returns or raises what the start process has reported of its end; None: it tells
                the user itself.
        """
        from rootless.engine.state.monitor_client import Client

        self.client = Client(link)
        self.facts = facts
        self.begun = False
        self._pipes = pipes
        self._pid = pid
        self._why = why

    def follow(self) -> int:
        """Attend the container until it ends or the user detaches.

        Returns:
            The exit code; 0 after the user has detached.

        Raises:
            RlessError: the start has failed, or the monitor was killed.
        """
        from rootless.engine.attach.streams import Signals

        signals = Signals(self.facts["proxy"])
        try:
            if self._why is None:  # the launcher has blocked them, for us to find
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
            signals.on_end(_interrupt)
            while not self._has_news():
                self.client.hear()
            signals.on_end(None)
            return self._attend(signals)
        except InterruptedStartError as interruption:
            return self.interrupted(interruption.number)
        finally:
            signals.restore()

    def _has_news(self) -> bool:
        client = self.client
        return client.begun or client.gone or client.failed is not None or client.code is not None

    def _attend(self, signals: Signals) -> int:
        client, facts = self.client, self.facts
        if client.failed is not None:
            return self.failed(client.failed)
        if not client.begun:
            return self.lost()
        self.begun = True
        if not facts["streams"]:
            client.let_go()
            if facts["notify"]:
                from rootless.engine.attach import sdnotify

                sdnotify.started(facts["notify"], self._pid)
            if facts["says"]:
                print(facts["says"])
            return 0
        signals.forward(client.forward)
        code = pump(client, facts["tty"], facts["streams"], facts["keys"], self._pipes)
        if code is None:
            return self.lost()
        if client.code is None:  # the keys to detach were typed
            if (container := self._container()) is not None:
                detached(container)
            return 0
        self._end()
        return code

    # -- what can go wrong -----------------------------------------------------------------------

    def failed(self, payload: list[Any]) -> int:
        """Undo a start that failed.

        Raises:
            RlessError: why it failed.
        """
        error = RlessError(*payload)
        self._end_start(error)
        raise error

    def interrupted(self, number: int) -> int:
        """Undo a start that a signal has ended; return the exit code."""
        self._end_start(None)
        return 128 + number

    def lost(self) -> int:
        """Report why the start process or the monitor has ended without an exit code.

        Returns:
            The exit code of a start process that has told the user why.

        Raises:
            RlessError: it was killed, or it has reported an error.
        """
        self.client.close()
        status = _wait(self._pid)
        if not self.begun:
            if self._why is not None:
                self._why()
            container = self._container()
            if container is None or not os.path.lexists(container.run_record_path):
                return _code(status)  # it has cleared up, and told the user why
        error = RlessError(KILLED, exit_code=137)
        self._end_start(error)
        raise error

    def _end_start(self, error: RlessError | None) -> None:
        """Clean up after a failed start: delete what `run` made, keep the error of `start`."""
        from rootless.engine.state.bundle import delete

        self.client.close()  # what waits for us ends now
        self._end()
        container = self._container()
        # What has run before our eyes is no failed start: its end is kept, as any other.
        keep = self.facts["keep"] or (self.begun and not self.facts["remove"])
        if container is None:
            return
        if not keep:
            delete(container, volumes=True)
        elif error is not None and not self.begun and container.ended():
            container.record_exit(error.exit_code, error.message)

    def _end(self) -> None:
        """Wait for the monitor's end, and clear up after one that was killed."""
        for fd in self._pipes:
            try:
                os.close(fd)
            except OSError:
                pass  # there is none, or the pump has come to its end
        _wait(self._pid)
        container = self._container()
        if container is not None and os.path.lexists(container.run_record_path):
            from rootless.engine.state import reconcile

            reconcile.clear(container)

    def _container(self) -> Container | None:
        from rootless.engine.state.container import load

        return load(self.facts["id"])


def _interrupt(number: int) -> None:
    raise InterruptedStartError(number)


def detached(container: Container) -> None:
    """Record the event that a user has detached from the container."""
    from rootless.engine.state import events

    events.of_container("detach", container)


def pump(
    client: Client,
    tty: bool,
    streams: Sequence[str],
    keys: str | None,
    pipes: tuple[int, int, int],
) -> int | None:
    """Copy between our streams and the container's; return its exit code.

    Args:
        pipes: stdin, stdout, stderr; -1: there is none.

    Returns:
        0 without a code in `client`: the user has typed the keys to detach. None: the monitor was
        killed.
    """
    from rootless.engine.attach.detach_keys import Keys
    from rootless.engine.attach.streams import Pump

    stdin, stdout, stderr = pipes
    pump = Pump(client.fd)
    if "stdout" in streams or tty:
        pump.add_output(stdout, 1)
    elif stdout >= 0:
        os.close(stdout)
    if "stderr" in streams and not tty:
        pump.add_output(stderr, 2)
    elif stderr >= 0:
        os.close(stderr)
    if stdin >= 0:
        pump.add_input(stdin, Keys(keys) if tty else None)
    with _terminal(client) if tty else _nothing():
        while client.code is None and not client.gone:
            if not pump.wait():
                break
            client.hear()
        else:
            pump.drain(to_the_end=True)
    if client.code is not None:
        return client.code
    if client.gone:
        return None
    client.let_go()
    os.write(2, b"read escape sequence\n")
    return 0


def _terminal(client: Client) -> Terminal:
    from rootless.engine.attach.terminal import Terminal

    return Terminal(client.resize)


class _nothing:  # noqa: N801  # contextlib.nullcontext, without the import of contextlib
    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: object) -> None:
        pass
