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
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any

    from rootless.engine.monitor_client import Client
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

    __slots__ = ("_client", "_old", "_pending", "proxy")

    def __init__(self, proxy: bool) -> None:
        """Start to catch.

        Args:
            proxy: forward them; else SIGINT and SIGTERM only end the command (Docker's
                --sig-proxy=false), and with it a container that it keeps.
        """
        self.proxy = proxy
        self._client: Client | None = None
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
        if self._client is None:
            self._pending.append(number)
        else:
            self._client.forward(number)

    def interrupted(self) -> int | None:
        """Return a signal that asked for the end before the application was there to get it."""
        return next((number for number in self._pending if number in _ENDING), None)

    def forward(self, client: Client) -> None:
        """Send what has arrived, and what arrives from now on.

        Not before the application runs: process 1 of a pid namespace loses each signal that it
        has no handler for, so init would take what the application is to get.
        """
        self._client = client
        pending, self._pending = self._pending, []
        for number in pending:
            self._handle(number, None)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._old = {}


class Terminal:
    """The caller's terminal in raw mode, restored whatever happens."""

    __slots__ = ("_client", "_saved", "fd")

    def __init__(self, client: Client) -> None:
        self._client = client
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
        except OSError:
            return  # it was hung up just now
        rows, columns, _, _ = struct.unpack("HHHH", window)
        self._client.resize(rows, columns)

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

    __slots__ = ("buffer", "keys", "paced", "sink", "source", "towards")

    def __init__(self, source: int, sink: int, towards: bool, keys: DetachKeys | None) -> None:
        self.source = source
        self.sink = sink
        self.towards = towards  # the container: then the end of the file is passed on
        self.keys = keys
        self.buffer = memoryview(b"")
        # Regular files take what they get; the others might make us wait.
        self.paced = not _is_regular(sink)

    def read(self) -> bool:
        """Take the next block; at the end there is no source any more. True: the keys came."""
        try:
            data = os.read(self.source, _BLOCK)
        except OSError:
            data = b""  # a terminal that was hung up says EIO
        if not data:
            self.finish()
        elif self.keys is not None:
            data = self.keys.filter(data)
        self.buffer = memoryview(data)
        return self.keys is not None and self.keys.pressed

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
        if self.towards and self.sink >= 0:
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


class DetachKeys:
    """Find the keys in what is typed that detach from the container.

    Keys that begin the sequence wait for those that follow: if these are others, all go on.
    """

    __slots__ = ("_held", "_sequence", "pressed")

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""
        self.pressed = False

    def filter(self, data: bytes) -> bytes:
        """Return what goes on to the container; `pressed` tells whether the keys came."""
        passed = bytearray()
        for number in data:
            key = bytes((number,))
            if self._sequence.startswith(self._held + key):
                self._held += key
                if self._held == self._sequence:
                    self.pressed = True
                    break
            else:
                passed += self._held
                self._held = key if self._sequence.startswith(key) else b""
                passed += b"" if self._held else key
        return bytes(passed)


def parse_detach_keys(text: str) -> bytes:
    """Return the bytes of Docker's form: letters, or ctrl-KEY of a-z @ [ \\ ] ^ _, by commas.

    Raises:
        ValueError: it is not of that form.
    """
    sequence = b""
    for key in text.split(","):
        name = key.removeprefix("ctrl-")
        if len(name) != 1 or not name.isascii():
            raise ValueError(f"has an unknown key {key!r}")
        if name == key:
            sequence += name.encode()
        elif name.isalpha() and name.islower():
            sequence += bytes((ord(name) - ord("a") + 1,))
        elif name in "@[\\]^_":
            sequence += bytes((ord(name) & 31,))
        else:
            raise ValueError(f"has an unknown key {key!r}")
    return sequence


DETACH_KEYS = b"\x10\x11"  # ctrl-p, ctrl-q


class Pump:
    """Copies between the caller's streams and the monitor's, and listens to it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.streams: list[_Stream] = []

    def add_output(self, source: int, sink: int) -> None:
        """Copy what the container writes from `source` to `sink`."""
        self.streams.append(_Stream(source, sink, False, None))

    def add_input(self, sink: int, keys: DetachKeys | None) -> None:
        """Copy our standard input to `sink`, and pass its end on."""
        self.streams.append(_Stream(0, sink, True, keys))

    def run(self) -> int | None:
        """Copy until the container has ended; return its exit code, None when detached.

        Raises:
            RlessError: the monitor was killed.
        """
        client = self.client
        while client.code is None and not client.gone:
            if self._turn(True):
                return None
        for stream in self.streams:
            if stream.towards:  # nobody is there any more
                stream.source, stream.buffer = -1, memoryview(b"")
        while any(stream.source >= 0 or stream.buffer for stream in self.streams):
            self._turn(False)
        if client.code is None:
            raise RlessError(
                "the container's monitor was killed, and the container with it", exit_code=137
            )
        return client.code

    def _turn(self, listen: bool) -> bool:
        """Wait for one round of events and handle them; True: the detach keys came."""
        poll = select.poll()
        wanted: dict[int, int] = {}
        if listen:
            wanted[self.client.fd] = select.POLLIN
        for stream in self.streams:
            if stream.buffer:
                wanted[stream.sink] = wanted.get(stream.sink, 0) | select.POLLOUT
            elif stream.source >= 0:
                wanted[stream.source] = wanted.get(stream.source, 0) | select.POLLIN
        for fd, mask in wanted.items():
            poll.register(fd, mask)
        events = dict(poll.poll())
        if listen and self.client.fd in events:
            self.client.hear()
        for stream in self.streams:
            if stream.buffer:
                if events.get(stream.sink, 0) & ~select.POLLIN:
                    stream.write()
            elif stream.source >= 0 and events.get(stream.source, 0) & ~select.POLLOUT:
                if stream.read():
                    return True
        return False
