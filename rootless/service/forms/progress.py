"""How the work on an image goes on, as lines of Docker's API; in the child that does the work."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from typing import Any

from rootless.errors import escape
from rootless.image.registry.progress import Progress

_KEPT = 1000  # lines
_PAUSE = 0.1  # seconds between two lines that tell how far a layer is


def line(value: dict[str, Any]) -> bytes:
    """Return a line of an answer."""
    return json.dumps(value).encode() + b"\r\n"


class Lines(Progress):
    """Writes lines to standard output.

    What comes before the first layer is held back: with the first byte the status of the answer is
    known, and whether there is such an image has to be known before.
    """

    def __init__(self, *, keep: bool = False) -> None:
        """Begin.

        Args:
            keep: hold back all, of which the last lines stay, until `release`.
        """
        super().__init__(1)
        self._keeps = keep
        self._held: deque[bytes] | None = deque(maxlen=_KEPT if keep else None)
        self._shown: dict[str, float] = {}  # layer -> when its bytes were told last

    def release(self) -> None:
        """Hold nothing back any more."""
        with self._lock:
            self._keeps = False
            self._let_go()

    def forget(self) -> None:
        """Drop what is held back, and hold nothing back any more."""
        with self._lock:
            self._held = None

    def tell(self, value: dict[str, Any]) -> None:
        """Write a line of its own."""
        with self._lock:
            self._let_go()
            self._put(value)

    def say(self, text: str) -> None:
        """Tell what concerns the whole image."""
        tag, _, rest = escape(text).partition(": ")
        value = {"status": escape(text)}
        if rest.startswith("Pulling from "):
            value = {"status": rest, "id": tag}
        with self._lock:
            self._put(value)

    def advance(self, layer: str, done: int, state: str = "", total: int = 0) -> None:
        """Tell how many bytes of a layer are done, from time to time and at the end."""
        now = time.monotonic()
        with self._lock:
            there = self._rows.get(layer, ("", 0, 0, now))
            if state and there[0] != state:
                there = (state, 0, total, now)
            doing, _, whole, began = there
            self._rows[layer] = (doing, done, whole, began)
            if not done or (done < whole and now - self._shown.get(layer, 0.0) < _PAUSE):
                return
            self._shown[layer] = now
            self._let_go()
            self._put(
                {
                    "status": doing,
                    "progressDetail": {"current": done, "total": whole},
                    "id": escape(layer),
                }
            )

    def _tell(self, layer: str, state: str) -> None:
        self._let_go()
        self._put({"status": escape(state), "progressDetail": {}, "id": escape(layer)})

    def _let_go(self) -> None:
        if self._held is not None and not self._keeps:
            data, self._held = b"".join(self._held), None
            _write(data)

    def _put(self, value: dict[str, Any]) -> None:
        if self._held is None:
            _write(line(value))
        else:
            self._held.append(line(value))


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
