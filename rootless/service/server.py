"""Who may connect, how many at once, and when there has been nobody for long enough.

Only the user may: each connection's other end is asked for by SO_PEERCRED before a byte of it is
read, whatever the mode of the socket's file is (security class 72).
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import select
import signal
import time
from typing import TYPE_CHECKING

from rootless.linux import unix
from rootless.service import children
from rootless.service.connection import BUFFER, Connection
from rootless.service.routes import dispatch

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

MOST = 512  # connections
_PAUSE = 0.1  # seconds


class Server:
    """One listening socket, and the connections that it has brought."""

    def __init__(self, listener: socket.socket, idle: float) -> None:
        """Take a listening socket.

        Args:
            idle: seconds without any work after which `run` ends; 0: never.
        """
        self._listener = listener
        self._idle = idle
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._last = time.monotonic()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal ends it, or nobody has been there for long enough.

        Args:
            ready: called once signals are handled and clients are heard.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, children.reap)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._done.set)
        _raise_limit()
        listen = asyncio.ensure_future(self._listen())
        watch = asyncio.ensure_future(self._watch())
        ready()
        await self._done.wait()
        watch.cancel()
        listen.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    async def _listen(self) -> None:
        """Take connections; without listen(2), by which the socket would seem to be of ours."""
        loop = asyncio.get_running_loop()
        while True:
            await children.readable(self._listener.fileno())
            if self._done.is_set():
                return  # whoever connects now is for the next service
            try:
                peer, _ = self._listener.accept()
            except OSError:  # too many open files, or a client that has gone
                await asyncio.sleep(_PAUSE)
                continue
            self._last = time.monotonic()  # it is none of the connections yet
            peer.setblocking(False)
            reader = asyncio.StreamReader(limit=BUFFER)
            protocol = asyncio.StreamReaderProtocol(reader, self._accept)
            await loop.connect_accepted_socket(functools.partial(_same, protocol), peer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        if unix.peer(peer)[1] != os.getuid():
            writer.transport.abort()
            return
        connection = Connection(reader, writer, dispatch)
        if len(self._connections) >= MOST:
            await connection.refuse(503, f"there are more than {MOST} connections")
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(connection)
        self._tasks.add(task)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            writer.transport.abort()  # the service ends
        finally:
            self._last = max(self._last, connection.last)
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _watch(self) -> None:
        """End the service when it has been idle for long enough."""
        while self._idle:
            now = time.monotonic()
            if any(one.busy for one in self._connections):
                self._last = now
            last = max([self._last, *(one.last for one in self._connections)])
            if now - last >= self._idle and not self._is_unread():
                self._done.set()
            await asyncio.sleep(min(1.0, self._idle / 4))

    def _is_unread(self) -> bool:
        """Tell whether somebody has said something at this moment, or connects."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        for one in self._connections:
            poll.register(one.writer.get_extra_info("socket").fileno(), select.POLLIN)
        return any(events == select.POLLIN for _, events in poll.poll(0))


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


def _raise_limit() -> None:
    """Allow as many open files as the hard limit does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
