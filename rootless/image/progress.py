"""Show how a pull goes on: one line a layer redrawn on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # what threading.Lock is; the rest of threading takes 3 ms

from rootless.errors import escape

_REDRAW_SECONDS = 0.1
_BAR = 50
_LAST = "Pull complete"
_MOVING = ("Downloading", "Extracting")  # shown as a bar, or not at all


class Progress:
    """Report to a descriptor, standard error by default.

    Args:
        quiet: report nothing.
    """

    def __init__(self, fd: int = 2, *, quiet: bool = False) -> None:
        self._fd = fd
        self._quiet = quiet
        self._live = not quiet and os.isatty(fd) and os.environ.get("TERM") != "dumb"
        # Layer -> state, bytes done, bytes in all, when the state began.
        self._rows: dict[str, tuple[str, int, int, float]] = {}
        self._drawn = 0
        self._last = 0.0
        self._lock = allocate_lock()

    @property
    def wanted(self) -> bool:
        """Tell whether anything is shown."""
        return not self._quiet

    def say(self, text: str) -> None:
        """Print one line above the layers."""
        if self._quiet:
            return
        with self._lock:
            self._erase()
            self._write(escape(text) + "\n")
            self._draw()

    def state(self, layer: str, state: str, total: int = 0) -> None:
        """Tell that a layer (by its short id) is "Waiting", "Downloading", ..."""
        if self._quiet:
            return
        with self._lock:
            before = self._rows[layer][0] if layer in self._rows else ""
            if before == _LAST:
                return  # told late: what unpacks can be faster than who says that it has all
            if state == _LAST and before == "Downloading" and not self._live:
                self._write(f"{layer}: Download complete\n")
            self._rows[layer] = (state, 0, total, time.monotonic())
            if self._live:
                self._redraw()
            elif state not in _MOVING:
                self._write(f"{layer}: {state}\n")

    def advance(self, layer: str, done: int, state: str = "", total: int = 0) -> None:
        """Tell how many bytes of a layer are done.

        Args:
            state, total: what is being done, if it may not have been told yet.
        """
        if not self._live:
            return
        with self._lock:
            now = time.monotonic()
            there = self._rows.get(layer, ("", 0, 0, now))
            if state and there[0] != state:
                there = (state, 0, total, now)
            self._rows[layer] = (there[0], done, there[2], there[3])
            if now - self._last >= _REDRAW_SECONDS:
                self._last = now
                self._redraw()

    def finish(self) -> None:
        """Leave the last state on the screen."""
        if self._live:
            with self._lock:
                self._redraw()
                self._rows = {}
                self._drawn = 0

    def _redraw(self) -> None:
        self._erase()
        self._draw()

    def _erase(self) -> None:
        if self._live and self._drawn:
            self._write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        if not self._live:
            return
        try:
            columns, lines = os.get_terminal_size(self._fd)
        except OSError:
            columns = lines = 0
        columns, lines = columns or 80, lines or 24
        rows = list(self._rows.items())[-max(1, lines - 2) :]
        now = time.monotonic()
        width = max(10, min(_BAR, columns - 60))
        lines_of = (_row(layer, *row, now, width) for layer, row in rows)
        text = "".join(line[: max(20, columns - 1)] + "\n" for line in lines_of)
        self._drawn = len(rows)
        self._write(text)

    def _write(self, text: str) -> None:
        try:
            os.write(self._fd, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # a closed standard error must not end a pull


def _row(
    layer: str, state: str, done: int, total: int, began: float, now: float, width: int
) -> str:
    if not total or not done:
        return f"{layer}: {state}"
    filled = min(width, width * done // total)
    bar = "=" * filled + ">" * (filled < width)
    rate = f" {_size(int(done / (now - began)))}/s" if now - began > 0.5 else ""
    return f"{layer}: {state:<11} [{bar:<{width}}] {_size(done)}/{_size(total)}{rate}"


def _size(count: int) -> str:
    """Return a number of bytes as Docker shows it: powers of 1000, four digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{value:.4g}TB"
