"""Streams of a container or a process on a connection that was taken over.

Without a terminal each piece of output is a frame: its stream, its length, its bytes. The end of
what the client sends is the end of the standard input, and output goes on; a client that is gone
ends nothing but its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING, Any

from rootless.engine.attach.detach_keys import Keys
from rootless.service import children

if TYPE_CHECKING:
    from collections.abc import Collection

    from rootless.service.connection import Connection

_BLOCK = 65536
_LOOK = 0.5  # seconds between two looks for a client that has gone
_LAST = 3.0  # seconds that a client has to close its side


class Pump:
    """The streams of one connection.

    Attributes:
        detached: the keys to detach were typed.
    """

    def __init__(
        self,
        connection: Connection,
        tty: bool,
        keys: str | None = None,
        framed: bool | None = None,
    ) -> None:
        """Take a connection.

        Args:
            tty: there is a terminal. keys: that detach from it.
            framed: output goes in frames; None: unless there is a terminal.
        """
        self.connection = connection
        self.tty = tty
        self._framed = not tty if framed is None else framed
        self.detached = False
        self._keys = Keys(keys) if tty else None
        self._ahead = b""

    async def run(
        self,
        ahead: bytes,
        stdin: int,
        outputs: dict[int, int],
        wanted: Collection[int],
        ended: asyncio.Future[None] | None = None,
    ) -> None:
        """Copy until the output has come to its end, or the client has gone or detached.

        Args:
            ahead: what the client has sent already.
            stdin: written to, and closed at the end of what the client sends; -1: there is none.
            outputs: descriptors by stream, 1 or 2. wanted: those that the client gets.
            ended: the process has ended: what its pipes hold then is all that counts.

        Raises:
            ConnectionError: the client has gone.
        """
        inward = asyncio.ensure_future(self._input(ahead, stdin))
        outward = [
            asyncio.ensure_future(self._output(fd, stream, stream in wanted))
            for stream, fd in outputs.items()
            if fd >= 0
        ]
        over = asyncio.gather(*outward)
        waits: list[asyncio.Future[Any]] = [over, inward]
        if ended is not None:
            waits.append(ended)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
                if ended is not None:  # its exit code is asked for as soon as the stream ends
                    await asyncio.wait((ended, inward), return_when=asyncio.FIRST_COMPLETED)
            elif ended is not None and ended.done():
                await _stop(over, *outward)
                for stream, fd in outputs.items():
                    if fd >= 0:
                        await self._rest(fd, stream, stream in wanted)
            if inward.done() and not self.detached and not over.cancelled():
                inward.result()
        finally:
            await _stop(over, *outward, inward)
        await self._close()

    async def _output(self, fd: int, stream: int, wanted: bool) -> None:
        async for data in children.read(fd):
            if wanted:
                await self._give(stream, data)

    async def _rest(self, fd: int, stream: int, wanted: bool) -> None:
        """Give what is there at this moment."""
        with contextlib.suppress(OSError):
            while data := os.read(fd, _BLOCK):
                if wanted:
                    await self._give(stream, data)

    async def _give(self, stream: int, data: bytes) -> None:
        await self.connection.write(frame(stream, data) if self._framed else data)

    async def _input(self, ahead: bytes, stdin: int) -> None:
        """Pass on what the client sends; return when the client has gone or detached."""
        data = ahead
        while True:
            if data and self._keys is not None:
                data = self._keys.feed(data)
            if data and stdin >= 0:
                try:
                    await children.write(stdin, data)
                except OSError:
                    stdin = children.close(stdin)  # nobody reads it; the rest is thrown away
            if self._keys is not None and self._keys.typed:
                self.detached = True
                return
            data = await self.connection.reader.read(_BLOCK)
            if not data:
                break
        if stdin >= 0 and not self.tty:
            children.close(stdin)
        while not self._is_gone():
            await asyncio.sleep(_LOOK)

    def _is_gone(self) -> bool:
        """Tell whether the client has closed both directions, and not only its own."""
        peer = self.connection.writer.get_extra_info("socket")
        poll = select.poll()
        poll.register(peer.fileno(), 0)
        return bool(poll.poll(0))

    async def _close(self) -> None:
        """Say that this was all, and give the client a moment to close its side."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self.connection.writer.write_eof()
            while await asyncio.wait_for(self.connection.reader.read(_BLOCK), _LAST):
                pass


def frame(stream: int, data: bytes) -> bytes:
    """Return a piece of output as a client without a terminal gets it."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


async def _stop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: what it has met is told elsewhere
