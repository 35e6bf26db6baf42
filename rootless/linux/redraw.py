"""Lines at the end of a terminal's text that are drawn again and again.

Escape sequences go only to a terminal that is not dumb. What is drawn last stays on the screen.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Redrawn:
    """The lines on a descriptor.

    Attributes:
        live: it is a terminal, so lines can be drawn.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.live = os.isatty(fd) and os.environ.get("TERM") != "dumb"
        self._drawn: list[int] = []  # the columns of each line on the screen

    def size(self) -> tuple[int, int]:
        """Return the columns and lines of the terminal."""
        try:
            columns, lines = os.get_terminal_size(self._fd)
        except OSError:
            columns = lines = 0
        return columns or 80, lines or 24

    def draw(self, picture: Sequence[str], above: str = "") -> None:
        """Take the last picture away, write `above`, which stays, and draw this picture.

        Args:
            picture: lines; what is wider than the terminal is cut.
            above: whole lines.
        """
        columns = self.size()[0]
        picture = [line[: max(1, columns - 1)] for line in picture]
        self.write(self._erased(columns) + above + "".join(f"{line}\n" for line in picture))
        # Not before: Ctrl-C may end this in between, and then a picture too many is better than
        # lines of others that are erased.
        self._drawn = [len(line) for line in picture]

    def leave(self) -> None:
        """Let the last picture stay: what comes is written below."""
        self._drawn = []

    def _erased(self, columns: int) -> str:
        """Return what takes the last picture away."""
        if not self._drawn:
            return ""
        # what was drawn may have been wrapped since
        height = sum(max(1, -(-length // columns)) for length in self._drawn)
        return f"\x1b[{height}A\x1b[J"

    def write(self, text: str, errors: str = "backslashreplace") -> None:
        """Write all of `text`, or nothing any more where nobody reads it.

        Args:
            errors: what becomes of lone surrogates (str.encode).
        """
        data = text.encode("utf-8", errors)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass  # a closed standard error must not end the work
