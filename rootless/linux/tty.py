"""Terminals in raw mode (termios(3))."""

from __future__ import annotations

import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def make_raw(fd: int, saved: list[Any]) -> None:
    """Have every byte and key pass (cfmakeraw in termios(3)), once what is written is out.

    Args:
        saved: what `termios.tcgetattr` has given; it is not changed.

    Raises:
        termios.error: `fd` is no terminal.
    """
    mode = list(saved)
    mode[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
