"""RUN --mount=type=ssh: a socket that passes on to the caller's agent what a RUN may ask of it.

A RUN may list the keys and have something signed. All else is refused here: it could add keys,
remove them, or lock the agent.

Source: draft-miller-ssh-agent, sections 3 and 5.1.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from threading import Thread
from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.linux import prctl

if TYPE_CHECKING:
    from typing import NoReturn

_LIST, _SIGN = 11, 13
_FAILURE = struct.pack(">IB", 1, 5)
_LONGEST = 256 << 10  # bytes of a message, OpenSSH's limit


class Proxy:
    """A process that serves one socket until it is closed; it ends with the caller."""

    def __init__(self, path: str, agent: str) -> None:
        """Begin to listen.

        Args:
            path: of the new socket. agent: of the agent's.

        Raises:
            RlessError: the agent does not answer.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(agent).close()
            listener.bind(path)
            listener.listen(16)
            parent = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    prctl.set_parent_death_signal(signal.SIGKILL)
                    if os.getppid() == parent:
                        _serve(listener, agent)
                finally:
                    os._exit(0)
        finally:
            listener.close()

    def close(self) -> None:
        """End it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _connect(agent: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.connect(agent)
    except OSError as error:
        channel.close()
        raise RlessError(f"the ssh agent {agent} does not answer: {error.strerror}") from error
    return channel


def _serve(listener: socket.socket, agent: str) -> NoReturn:
    while True:
        client, _ = listener.accept()
        Thread(target=_answer, args=(client, agent), daemon=True).start()


def _answer(client: socket.socket, agent: str) -> None:
    """Pass on the requests of one client, one after the other."""
    try:
        with client, _connect(agent) as upstream:
            while (request := _receive(client)) is not None:
                if request[4] not in (_LIST, _SIGN):
                    client.sendall(_FAILURE)
                    continue
                upstream.sendall(request)
                answer = _receive(upstream)
                if answer is None:
                    return
                client.sendall(answer)
    except (OSError, RlessError):
        pass  # one of the two has gone


def _receive(channel: socket.socket) -> bytes | None:
    """Return one message with its length; None at the end, or if it is not of this protocol."""
    head = _exactly(channel, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if not 1 <= length <= _LONGEST:
        return None
    body = _exactly(channel, length)
    return None if body is None else head + body


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        chunk = channel.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data
