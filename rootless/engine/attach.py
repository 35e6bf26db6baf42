"""The command's side of a running container: its streams, its terminal, its signals.

The application gets pipes, or a pty of its own, never the caller's descriptors: a descriptor
of the caller's file could be opened again through /proc with other rights, and a descriptor of
the caller's terminal could be typed into (security class 37).

Every byte goes through in order. A reader that stops reading stops only its own stream, and a
reader that goes away is passed on: the application then gets SIGPIPE, as in a shell.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios

from rootless import log
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open, pidfd_send_signal, start_time
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any

    from rootless.oci.runtime_spec import Box
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

_BLOCK = 65536
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
    """Catch signals from the moment the container is being made, and forward them to it."""

    __slots__ = ("_old", "_pending", "_target", "pidfd", "proxy")

    def __init__(self, proxy: bool) -> None:
        """Start to catch.

        Args:
            proxy: forward them; else SIGINT and SIGTERM only end the command (Docker's
                --sig-proxy=false), and with it the container.
        """
        self.pidfd = self._target = -1
        self.proxy = proxy
        self._pending: list[int] = []
        self._old: dict[int, Any] = {}
        if not proxy:
            return
        for number in signal.valid_signals() - _OURS:
            try:
                self._old[number] = signal.signal(number, self._handle)
            except (OSError, ValueError):
                continue  # the C library keeps two for itself

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pidfd < 0:
            self._pending.append(number)
            return
        try:
            pidfd_send_signal(self.pidfd, number)
        except SyscallError as error:
            if error.errno != 3:  # it has just ended
                raise

    def watch(self, process: list[int]) -> None:
        """Hold the process that signals will go to; it waits at its gate, so it is there.

        Raises:
            RlessError: the process has ended, its number is another's.
        """
        self._target = pidfd_open(process[0])
        if start_time(process[0]) != process[1]:
            raise RlessError("the container ended while it was started")

    def interrupted(self) -> int | None:
        """Return a signal that asked for the end before the application was there to get it."""
        return next((number for number in self._pending if number in _ENDING), None)

    def forward(self) -> None:
        """Send what has arrived, and what arrives from now on.

        Not before the application runs: process 1 of a pid namespace loses each signal that it
        has no handler for, so init would take what the application is to get.
        """
        self.pidfd, self._target = self._target, -1
        pending, self._pending = self._pending, []
        for number in pending:
            self._handle(number, None)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for fd in (self.pidfd, self._target):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self._target = -1


class Terminal:
    """The caller's terminal in raw mode, restored whatever happens."""

    __slots__ = ("_saved", "fd", "master")

    def __init__(self, master: int) -> None:
        self.master = master
        self.fd = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
        self._saved: list[Any] | None = None

    def __enter__(self) -> Terminal:
        if self.fd >= 0:
            self._resize(0, None)
            signal.signal(signal.SIGWINCH, self._resize)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            raw = termios.tcgetattr(0)
            # cfmakeraw(3)
            raw[0] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            raw[1] &= ~termios.OPOST
            raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[3] &= ~(
                termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
            )
            termios.tcsetattr(0, termios.TCSADRAIN, raw)
        return self

    def _resize(self, number: int, frame: FrameType | None) -> None:
        try:
            window = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, window)
        except OSError:
            pass  # the other side has just closed

    def __exit__(self, *details: object) -> None:
        if self.fd >= 0:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        if self._saved is not None:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            except termios.error:
                pass  # it was hung up: there is nothing to restore


def window_size() -> Box | None:
    """Return the size of the caller's terminal as OCI's consoleSize; None without one."""
    for fd in (0, 1, 2):
        try:
            window = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            continue
        rows, columns, _, _ = struct.unpack("HHHH", window)
        return {"height": rows, "width": columns}
    return None


class _Stream:
    """One direction: from a descriptor of ours to another, with at most one block in between."""

    __slots__ = ("back", "buffer", "close_sink", "paced", "sink", "source")

    def __init__(self, source: int, sink: int, close_sink: bool) -> None:
        self.source = source
        self.sink = sink
        self.close_sink = close_sink
        # From the same terminal: without its keys it is to be hung up as a whole.
        self.back: _Stream | None = None
        self.buffer = memoryview(b"")
        # Regular files take what they get; the others might make us wait.
        self.paced = not _is_regular(sink)

    def read(self) -> None:
        """Take the next block; at the end there is no source any more."""
        try:
            data = os.read(self.source, _BLOCK)
        except OSError:
            data = b""  # a pty says EIO when its last writer has gone
        if data:
            self.buffer = memoryview(data)
            return
        self.finish()
        if self.back is not None:
            # The kernel hangs up a terminal when its last master is closed.
            self.back.finish()
            os.close(self.sink)
            self.sink = -1

    def write(self) -> None:
        """Give on what fits."""
        try:
            size = os.write(self.sink, self.buffer[:_PIPE_BUF] if self.paced else self.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            # EPIPE, EIO: who reads has gone away. Anything else nobody would hear of.
            if error.errno not in (errno.EPIPE, errno.EIO) and self.sink in (1, 2):
                log.warn(f"output of the container is lost: {error.strerror}")
            self.buffer = memoryview(b"")
            self.finish()
            return
        self.buffer = self.buffer[size:]

    def finish(self) -> None:
        """End this direction: the other end of the source learns that nobody reads."""
        if self.close_sink and self.sink >= 0:
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
    """Copies between the caller's streams and the container's, and listens to the monitor."""

    def __init__(self, result: int) -> None:
        self.result = result
        self.streams: list[_Stream] = []

    def add(self, source: int, sink: int, close_sink: bool = False) -> None:
        """Copy from `source` to `sink`; `close_sink` passes on the end of the file."""
        self.streams.append(_Stream(source, sink, close_sink))

    def add_terminal(self, master: int, keys: bool) -> None:
        """Copy from the container's terminal and, with `keys`, to it.

        When the caller's terminal has gone (a closed window, a broken connection), so has the
        container's: else a shell would wait for ever for keys that nobody can type.
        """
        screen = _Stream(os.dup(master), 1, close_sink=False)
        self.streams.append(screen)
        if keys:
            self.add(0, master)
            self.streams[-1].back = screen

    def run_until(self, wanted: bytes) -> Any:
        """Copy until the monitor sends a frame of the wanted kind; return what it carries.

        Raises:
            RlessError: the monitor reports FAILED, or was killed.
        """
        while True:
            self._turn(watch_result=True)
            if not self._result_ready:
                continue
            frame = sync.receive(self.result)
            if frame is None:
                raise RlessError(
                    "the container's monitor was killed, and the container with it", exit_code=137
                )
            kind, payload = frame
            if kind == sync.FAILED:
                raise RlessError(*payload)
            if kind == wanted:
                return payload

    def drain(self) -> None:
        """Copy what the application has written before it ended, to the last byte."""
        for stream in self.streams:
            if stream.close_sink or stream.back:  # towards the container: nobody is there
                stream.source = -1
        while any(stream.source >= 0 or stream.buffer for stream in self.streams):
            if not self._turn(watch_result=False):
                return  # what is open still belongs to processes that outlive the container

    _result_ready = False

    def _turn(self, watch_result: bool) -> bool:
        """Wait for one round of events and handle them; False: nothing came, nothing will."""
        poll = select.poll()
        wanted: dict[int, int] = {}
        if watch_result:
            wanted[self.result] = select.POLLIN
        for stream in self.streams:
            if stream.buffer:
                wanted[stream.sink] = wanted.get(stream.sink, 0) | select.POLLOUT
            elif stream.source >= 0:
                wanted[stream.source] = wanted.get(stream.source, 0) | select.POLLIN
        for fd, mask in wanted.items():
            poll.register(fd, mask)
        waits_for_reader = any(stream.buffer for stream in self.streams)
        events = dict(poll.poll(None if watch_result or waits_for_reader else 0))
        self._result_ready = self.result in events and watch_result
        for stream in self.streams:
            if stream.buffer:
                if events.get(stream.sink, 0) & ~select.POLLIN:
                    stream.write()
            elif stream.source >= 0 and events.get(stream.source, 0) & ~select.POLLOUT:
                stream.read()
        return bool(events)
