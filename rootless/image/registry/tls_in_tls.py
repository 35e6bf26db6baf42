"""TLS whose records travel over a TLS connection: to an https server through an https proxy.

`ssl.SSLContext.wrap_socket` takes a plain socket only; here the two ends of the inner TLS are
buffers, which are carried over the outer one.
"""

from __future__ import annotations

import io
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CHUNK = 65536  # bytes


class TlsInTls:
    """What http.client needs of a socket.

    Raises:
        ssl.SSLError: the inner server is not trusted.
    """

    def __init__(self, sock: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self._users = 1  # itself, and its readers
        self._do(self._tls.do_handshake)

    def _do(self, call: Callable[..., Any], *args: object) -> Any:
        """Call the inner TLS, and carry what it wants to send and to receive."""
        while True:
            try:
                done = call(*args)
            except ssl.SSLWantReadError:
                self._sock.sendall(self._leaving.read())
                if data := self._sock.recv(_CHUNK):
                    self._arrived.write(data)
                else:
                    self._arrived.write_eof()
            else:
                self._sock.sendall(self._leaving.read())
                return done

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            view = view[self._do(self._tls.write, view) :]

    def recv_into(self, buffer: Any) -> int:
        """Receive what is there; 0 at the end."""
        try:
            return int(self._do(self._tls.read, len(buffer), buffer))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader, for which the connection stays open."""
        self._users += 1
        return io.BufferedReader(_Reader(self))

    def settimeout(self, seconds: float | None) -> None:
        """Wait so long for the next bytes."""
        self._sock.settimeout(seconds)

    def fileno(self) -> int:
        """Return the descriptor of the outer connection."""
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        """End the outer connection, and whatever waits for it."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close it, once no reader has it."""
        self._users -= 1
        if self._users == 0:
            self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, source: TlsInTls) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._source.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._source.close()
