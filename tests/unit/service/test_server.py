"""Tests of how the service ends when nobody is there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from rootless.service.server import Server

if TYPE_CHECKING:
    from pathlib import Path

IDLE = 0.004  # seconds; it looks four times as often
REQUEST = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


def test_nobody_is_turned_away_at_the_end(tmp_path: Path) -> None:
    """Who connects while the service decides to end is answered by it, or by the next one."""
    path = os.fspath(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    server = os.fork()
    if server == 0:
        try:
            while True:
                asyncio.run(Server(listener, IDLE).run())
        finally:
            os._exit(1)
    try:
        for count in range(200):
            time.sleep(count % 60 / 10000)  # before, at and after the moment
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(path)
                client.sendall(REQUEST)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 "), count
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        listener.close()
