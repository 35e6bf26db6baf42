"""Messages between the processes of a build: JSON objects in a pipe, one a line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rootless import jsontext

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Say: TypeAlias = Callable[[dict[str, Any]], None]

_READ = 64 << 10


def sender(fd: int) -> Say:
    """Return what writes a message into a pipe."""

    def say(message: dict[str, Any]) -> None:
        data = jsontext.dumps(message).encode("utf-8", "surrogateescape") + b"\n"
        while data:
            data = data[os.write(fd, data) :]

    return say


class Receiver:
    """The reading end of such a pipe.

    Attributes:
        ended: nobody writes any more.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Read once; return the messages that are complete now."""
        data = os.read(self.fd, _READ)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [jsontext.loads(line) for line in lines]
