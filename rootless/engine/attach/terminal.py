"""The caller's terminal while it is connected to a container: raw, resized, restored at the end.

Loaded only for a container with a terminal.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from rootless.linux.signals import signal
from rootless.linux.tty import make_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from rootless.oci.runtime_spec import Box


class Terminal:
    """The caller's terminal in raw mode, which is restored on every way out."""

    __slots__ = ("_give_size", "_saved", "fd")

    def __init__(self, give_size: Callable[[int, int], object]) -> None:
        """Prepare; `give_size` is told the rows and columns whenever they change."""
        self._give_size = give_size
        self.fd = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
        self._saved: list[Any] | None = None

    def __enter__(self) -> Terminal:
        if self.fd >= 0:
            self._resize(0, None)
            signal.signal(signal.SIGWINCH, self._resize)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            make_raw(0, self._saved)
        return self

    def _resize(self, number: int, frame: FrameType | None) -> None:
        try:
            window = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return  # it was hung up just now
        rows, columns, _, _ = struct.unpack("HHHH", window)
        self._give_size(rows, columns)

    def __exit__(self, *details: object) -> None:
        if self.fd >= 0:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        if self._saved is not None:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            except termios.error:
                pass  # it was hung up: there is nothing to restore


def resize(master: int, rows: int, columns: int) -> None:
    """Set the size of the terminal with this master."""
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    except OSError:
        pass  # its other side has just closed


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
