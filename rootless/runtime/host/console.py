"""The caller's terminal, connected to a process whose pty has no --console-socket.

The caller's terminal is raw for that time; every byte and the size of the window are passed on.
"""

from __future__ import annotations

import _socket
import array
import fcntl
import os
import select
import struct
import termios

from rootless.errors import RlessError
from rootless.linux.signals import signal
from rootless.linux.tty import make_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 64 << 10  # bytes


class Console:
    """The caller's terminal, connected to a process that has a pty of its own.

    Attributes:
        inner: a connected socket for the runtime, which sends the pty's master into it.
    """

    __slots__ = ("_master", "_outer", "_saved", "_typed", "inner")

    def __init__(self) -> None:
        outer, inner = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._outer = outer.detach()
        self.inner = inner.detach()
        self._master = -1
        self._saved: list[Any] | None = None
        self._typed = True

    def take_over(self) -> None:
        """Receive the master; make the caller's terminal raw.

        Raises:
            RlessError: no master came.
        """
        os.close(self.inner)
        channel = _socket.socket(fileno=self._outer)
        rights = array.array("i")
        _, ancillary, _, _ = channel.recvmsg(64, _socket.CMSG_SPACE(rights.itemsize))
        channel.close()
        for _, _, data in ancillary:
            rights.frombytes(data[: rights.itemsize])
        if not rights:
            raise RlessError("the process has no terminal")
        self._master = rights[0]
        os.set_inheritable(self._master, False)
        if not os.isatty(1):
            # As runc: whoever reads a pipe wants lines, not what moves a cursor.
            mode = termios.tcgetattr(self._master)
            mode[1] &= ~termios.ONLCR
            termios.tcsetattr(self._master, termios.TCSANOW, mode)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            signal.signal(signal.SIGWINCH, lambda number, frame: self._set_size())
            self._set_size()
            make_raw(0, self._saved)

    def close(self) -> None:
        """Give the caller's terminal back."""
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self._saved = None

    def _set_size(self) -> None:
        try:
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # one of the two has gone

    def fds(self) -> list[int]:
        """Return what is to be read: the pty, and standard input until its end."""
        return [fd for fd, wanted in ((self._master, True), (0, self._typed)) if wanted and fd >= 0]

    def pass_on(self, fd: int) -> None:
        """Pass on what can be read from one of `fds`."""
        try:
            data = os.read(fd, _CHUNK)
        except OSError:
            data = b""  # EIO: the other end of the pty is closed
        if fd == self._master:
            if not data:
                os.close(self._master)
                self._master = -1
                return
            _write_all(1, data)
        elif data:
            _write_all(self._master, data)
        else:
            self._typed = False

    def drain(self) -> None:
        """Pass on what the process has left in its pty."""
        while self._master >= 0:
            poll = select.poll()
            poll.register(self._master, select.POLLIN)
            if not poll.poll(0):
                return
            self.pass_on(self._master)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        pass  # nobody reads any more
