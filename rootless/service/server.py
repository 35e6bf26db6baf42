"""Who may connect, how many at once, and when there has been nobody for long enough.

Only the user may: each connection's other end is asked for by SO_PEERCRED before a byte of it is
read, whatever the mode of the socket's file is (security class 72).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import struct
import time

from rootless.service import children
from rootless.service.connection import BUFFER, Connection
from rootless.service.routes import dispatch

MOST = 512  # connections
_BACKLOG = 1024


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

    async def run(self) -> None:
        """Serve until a signal ends it, or nobody has been there for long enough."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, children.reap)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._done.set)
        _raise_limit()
        server = await asyncio.start_unix_server(
            self._accept, sock=self._listener, limit=BUFFER, backlog=_BACKLOG
        )
        watch = asyncio.ensure_future(self._watch())
        await self._done.wait()
        watch.cancel()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        if peer_uid(peer) != os.getuid():
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
            if now - last >= self._idle:
                self._done.set()
            await asyncio.sleep(min(1.0, self._idle / 4))


def peer_uid(peer: socket.socket) -> int:
    """Return who is at the other end of a unix socket (SO_PEERCRED, unix(7))."""
    form = "3i"
    size = struct.calcsize(form)
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack(form, credentials)
    return int(uid)


def _raise_limit() -> None:
    """Allow as many open files as the hard limit does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
