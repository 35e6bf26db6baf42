"""Show the progress of images that come or go: a line for each layer on a terminal.

A pull or push tells of layers in a pipe too, in plain lines.

If there are more layers than the terminal has lines, it shows those that move, then those that
wait. The last picture has all.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # what threading.Lock is; the rest of threading takes 3 ms

from rootless.errors import escape
from rootless.linux.redraw import Redrawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_REDRAW_SECONDS = 0.1
_BAR = 50
_LAST = "Pull complete"
MOVING = ("Downloading", "Extracting")  # shown as a bar, or not at all
# Told of first, and last, where there is no room for all.
_FIRST = (*MOVING, "Compressing", "Pushing", "Reading", "Decompressing", "Saving", "Committing")
_DONE = (
    *(_LAST, "Already exists", "Pushed", "Layer already exists", "Mounted", "Skipped"),
    *("Read", "Decompressed", "Compressed", "Saved", "Committed"),
)


class Progress:
    """Reports to a descriptor, standard error by default.

    Args:
        quiet: report nothing.
        lines: report layers, too, if the descriptor is not a terminal.
    """

    def __init__(self, fd: int = 2, *, quiet: bool = False, lines: bool = True) -> None:
        self._quiet = quiet
        self._lines = lines
        self._screen = Redrawn(fd)
        self._live = not quiet and self._screen.live
        # Layer -> state, bytes done, bytes in all, when the state began.
        self._rows: dict[str, tuple[str, int, int, float]] = {}
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
            self._redraw(above=escape(text) + "\n")

    def state(self, layer: str, state: str, total: int = 0) -> None:
        """Tell that a layer (by its short id) is "Waiting", "Downloading", ..."""
        if self._quiet:
            return
        with self._lock:
            before = self._rows[layer][0] if layer in self._rows else ""
            if before == _LAST:
                return  # told late: what unpacks can be faster than who says that it has all
            if state == _LAST and before == "Downloading" and not self._live and self._lines:
                self._tell(layer, "Download complete")
            self._rows[layer] = (state, 0, total, time.monotonic())
            if self._live:
                self._redraw()
            elif state not in MOVING and self._lines:
                self._tell(layer, state)

    def _tell(self, layer: str, state: str) -> None:
        """Tell a state where nothing can be redrawn."""
        self._screen.write(f"{layer}: {state}\n")

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

    def through(
        self, layer: str, states: tuple[str, str], chunks: Iterable[bytes], total: int = 0
    ) -> Iterator[bytes]:
        """Yield `chunks`, and show how many bytes of them there have been.

        Args:
            layer: its short id, or another name for what is read: of a path or a URL the last part
                is shown, as the line has to have room for the rest.
            states: what is being done, and what is said at the end, as ("Saving", "Saved").
            total: bytes that are expected; 0: nobody knows.
        """
        if not self._live:
            yield from chunks
            return
        layer = os.path.basename(layer) or layer
        doing, done = states
        self.state(layer, doing, total)
        count = 0
        for chunk in chunks:
            count += len(chunk)
            self.advance(layer, count)
            yield chunk
        self.state(layer, done)

    def finish(self) -> None:
        """Leave the last state on the screen."""
        if self._live:
            with self._lock:
                self._redraw(all_of_it=True)
                self._rows = {}
                self._screen.leave()

    def _redraw(self, above: str = "", *, all_of_it: bool = False) -> None:
        self._screen.draw(self._picture(all_of_it), above)

    def _picture(self, all_of_it: bool) -> list[str]:
        """Return the lines of the layers."""
        if not self._live:
            return []
        columns, lines = self._screen.size()
        rows = list(self._rows.items())
        room = max(1, lines - 2)
        if len(rows) > room and not all_of_it:
            chosen = {layer for layer, _ in sorted(rows, key=_rank)[:room]}
            rows = [row for row in rows if row[0] in chosen]
        now = time.monotonic()
        width = max(10, min(_BAR, columns - 60))
        return [_row(layer, *row, now, width) for layer, row in rows]


def _rank(row: tuple[str, tuple[str, int, int, float]]) -> int:
    state = row[1][0]
    return 0 if state in _FIRST else 2 if state.startswith(_DONE) else 1


def _row(
    layer: str, state: str, done: int, total: int, began: float, now: float, width: int
) -> str:
    if not done:
        return f"{layer}: {state}"
    if not total:
        return f"{layer}: {state} {_size(done)}"
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
