"""The foreground side of a running container: its streams and signals (see also `terminal`).

The application gets pipes or a pty of its own, never the caller's descriptors. It could open a
descriptor of the caller's file again through /proc with other rights, and it could type into a
descriptor of the caller's terminal (security class 37).

Every byte is delivered in order. A reader that stops reading blocks only its own stream. If a
reader goes away, the application gets SIGPIPE, as in a shell.
"""

from __future__ import annotations

import errno
import os
import select

from rootless import log
from rootless.errors import RlessError
from rootless.linux.signals import clear_wakeups, signal, wakeups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from rootless.engine.attach.detach_keys import Keys

_BLOCK = 65536
_LAST_WORDS = 2 << 20  # bytes: more than a pipe holds
# What poll(2) promises to fit into a writable pipe: a write of this size never blocks us.
_PIPE_BUF = select.PIPE_BUF
# Not forwarded: they are about us, or cannot be caught.
_OURS = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGWINCH,
}
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """Catches signals from the start of a container on, and forwards them to it."""

    __slots__ = ("_given_up", "_old", "_pending", "_send", "_stop", "proxy")

    def __init__(self, proxy: bool) -> None:
        """Start to catch signals.

        Args:
            proxy: forward them; else SIGINT and SIGTERM only end the command (Docker's
                --sig-proxy=false), and with it a container that depends on it.
        """
        self.proxy = proxy
        self._send: Callable[[int], None] | None = None
        self._stop: Callable[[int], None] | None = None
        self._pending: list[int] = []
        self._given_up = 0  # signals by which a user wants the end
        self._old: dict[int, Any] = {}
        if not proxy:
            return
        for number in signal.valid_signals() - _OURS:
            try:
                self._old[number] = signal.signal(number, self._handle)
            except (OSError, ValueError):
                continue  # the C library keeps two for itself

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._send is not None:
            self._given_up += number in (signal.SIGINT, signal.SIGTERM)
            if self._given_up == 3:  # as Docker's, where no key ends the application
                raise RlessError("the third SIGINT or SIGTERM ends the command", exit_code=1)
            self._send(number)
            return
        self._pending.append(number)
        if self._stop is not None and number in _ENDING:
            self._stop(number)

    def interrupted(self) -> int | None:
        """Return a signal to end the command that arrived before the application could get it."""
        return next((number for number in self._pending if number in _ENDING), None)

    def on_end(self, stop: Callable[[int], None] | None) -> None:
        """Call `stop` at a signal to end the command, before the application can get it."""
        self._stop = stop
        if stop is not None and (number := self.interrupted()) is not None:
            stop(number)

    def forward(self, send: Callable[[int], None]) -> None:
        """Send what has arrived, and what arrives from now on.

        Not before the application runs: process 1 of a pid namespace loses each signal that it
        has no handler for, so init would take what the application is to get.
        """
        self._send = send
        pending, self._pending = self._pending, []
        for number in pending:
            self._handle(number, None)

    def restore(self) -> None:
        """Restore the caller's handlers."""
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._old = {}


class _Stream:
    """Copies in one direction between two descriptors, with at most one block in memory."""

    __slots__ = ("back", "buffer", "inward", "keys", "paced", "sink", "source", "taken")

    def __init__(self, source: int, sink: int, inward: bool, keys: Keys | None = None) -> None:
        self.source = source
        self.sink = sink
        self.inward = inward  # towards the application: the end of the file is passed on
        self.keys = keys
        # From the same terminal: without its keys it is to be hung up as a whole.
        self.back: _Stream | None = None
        self.buffer = memoryview(b"")
        self.taken = 0  # bytes
        # Regular files take what they get; the others might make us wait.
        self.paced = not _is_regular(sink)

    def read(self) -> bool:
        """Take the next block; at the end there is no source any more. False: the keys came."""
        try:
            data = os.read(self.source, _BLOCK)
        except OSError:
            data = b""  # a pty says EIO when its last writer has gone
        if not data:
            self.finish()
            if self.back is not None:
                # The kernel hangs up a terminal when its last master is closed.
                self.back.finish()
        elif self.keys is not None:
            data = self.keys.feed(data)
        self.taken += len(data)
        self.buffer = memoryview(data)
        return self.keys is None or not self.keys.typed

    def write(self) -> None:
        """Write as much as fits."""
        try:
            size = os.write(self.sink, self.buffer[:_PIPE_BUF] if self.paced else self.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            # EPIPE, EIO: the reader has gone away. Nobody would notice any other error.
            if error.errno not in (errno.EPIPE, errno.EIO) and self.sink in (1, 2):
                log.warn(f"output of the container is lost: {error.strerror}")
            self.buffer = memoryview(b"")
            self.finish()
            return
        self.buffer = self.buffer[size:]

    def finish(self) -> None:
        """End this direction: the writer of the source learns that nobody reads."""
        if self.inward and self.sink >= 0:
            os.close(self.sink)
            self.sink = -1
        if self.source > 2:
            os.close(self.source)
        self.source = -1


def _is_regular(fd: int) -> bool:
    import stat

    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class Pump:
    """Copies between the caller's streams and the application's until something happens."""

    def __init__(self, fd: int) -> None:
        """Begin without streams; `fd` is readable when there is news of the application."""
        self.fd = fd
        self.streams: list[_Stream] = []

    def add_output(self, source: int, sink: int) -> None:
        """Copy what the application writes from `source` to `sink`."""
        self.streams.append(_Stream(source, sink, False))

    def add_input(self, sink: int, keys: Keys | None = None) -> None:
        """Copy our standard input to `sink`, and pass its end on."""
        self.streams.append(_Stream(0, sink, True, keys))

    def add_terminal(self, master: int, typed: bool, keys: Keys | None = None) -> None:
        """Copy from the terminal with this master and, with `typed`, to it.

        When the caller's terminal has gone (a closed window, a broken connection), so has the
        application's: else a shell would wait for ever for keys that nobody can type.
        """
        screen = _Stream(os.dup(master), 1, False)
        self.streams.append(screen)
        if typed:
            self.add_input(master, keys)
            self.streams[-1].back = screen

    def wait(self) -> bool:
        """Copy until there is news; False: the keys to detach were typed."""
        while True:
            poll = self._poll()
            poll.register(self.fd, select.POLLIN)
            poll.register(wakeups(), select.POLLIN)
            events = dict(poll.poll())
            if events.pop(wakeups(), 0):
                clear_wakeups()
            if not self._copy(events):
                return False
            if self.fd in events:
                return True

    def drain(self, to_the_end: bool) -> None:
        """Copy what the application has written before it ended, to the last byte.

        Args:
            to_the_end: all streams end soon; else what is open still may belong to processes
                that outlive the application, and is not waited for. They may write for ever.
        """
        before = {stream: stream.taken for stream in self.streams}
        for stream in self.streams:
            if stream.inward:  # nobody is there any more
                stream.source, stream.buffer = -1, memoryview(b"")
        while any(stream.source >= 0 or stream.buffer for stream in self.streams):
            patient = to_the_end or any(stream.buffer for stream in self.streams)
            events = dict(self._poll().poll(None if patient else 0))
            if not events:
                return
            self._copy(events)
            for stream, taken in before.items():
                if not to_the_end and stream.taken - taken >= _LAST_WORDS and stream.source >= 0:
                    stream.finish()

    def _poll(self) -> select.poll:
        wanted: dict[int, int] = {}
        for stream in self.streams:
            if stream.buffer:
                wanted[stream.sink] = wanted.get(stream.sink, 0) | select.POLLOUT
            elif stream.source >= 0:
                wanted[stream.source] = wanted.get(stream.source, 0) | select.POLLIN
        poll = select.poll()
        for fd, mask in wanted.items():
            poll.register(fd, mask)
        return poll

    def _copy(self, events: dict[int, int]) -> bool:
        """Handle one round of events; False: the keys to detach were typed."""
        for stream in self.streams:
            if stream.buffer:
                if events.get(stream.sink, 0) & ~select.POLLIN:
                    stream.write()
            elif (
                stream.source >= 0
                and events.get(stream.source, 0) & ~select.POLLOUT
                and not stream.read()
            ):
                return False
        return True
