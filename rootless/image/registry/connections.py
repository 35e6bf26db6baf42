"""Connections to servers, over http.client: kept alive, through proxies, with TLS.

What may be asked, what follows a redirect and when to try again is decided in `http`; here a
request is sent once, over a connection that is idle or a new one, and the answer is read as it
arrives. The standard library parses it.

Source: RFC 9110, section 9.3.6 (CONNECT); RFC 9112.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
from urllib.parse import quote, unquote, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

_IDLE = 8  # connections kept for each place
# What a URL may have as it is; a redirect can name anything.
_SAFE = "%/:=&?~+!$,;'@()*[]"


class RequestError(Exception):
    """A request was not answered.

    Attributes:
        step: "name": the server's is unknown, "connect": nothing is reached, "tls": it is not
            trusted or speaks otherwise, "": it was reached.
    """

    def __init__(self, why: str, step: str = "") -> None:
        super().__init__(why)
        self.step = step


class Proxy:
    """A proxy from the environment.

    Args:
        address: http://[USER:PASSWORD@]HOST[:PORT], or https, or without a scheme.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(address)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            from base64 import b64encode

            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"


class Headers:
    """The headers of an answer; of several with one name the values are joined by commas."""

    def __init__(self, message: http.client.HTTPMessage) -> None:
        self._message = message

    def get(self, name: str, default: str = "") -> str:
        """Return a header's value; `default` if there is none."""
        values = self._message.get_all(name)
        return default if values is None else ", ".join(values)

    def discard(self, name: str) -> None:
        """Forget a header."""
        del self._message[name]


class Response:
    """An answer whose body is still to be read.

    Attributes:
        url: who has answered, after redirects.
    """

    def __init__(
        self, raw: http.client.HTTPResponse, connection: _Connection, idle: list[_Connection]
    ) -> None:
        self.status = raw.status
        self.url = ""
        self.headers = Headers(raw.headers)
        self._raw = raw
        self._connection: _Connection | None = connection
        self._idle = idle

    def read1(self, most: int) -> bytes:
        """Return the bytes of the body that are there, at most so many; b"" at its end.

        Raises:
            RequestError: it breaks off before its end.
            OSError: the connection fails.
        """
        try:
            data = self._raw.read1(most)
        except (http.client.HTTPException, ValueError) as error:
            raise RequestError(why(error)) from error
        if not data:
            if self._raw.length:
                raise RequestError(f"connection broken: {self._raw.length} bytes are missing")
            self.release()
        return data

    def release(self) -> None:
        """Give the connection to the next request if the body was read, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        keep = self._raw.length == 0 or self._raw.isclosed()
        self._raw.close()
        if keep and connection.sock is not None and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connection; what was not read is lost."""
        connection, self._connection = self._connection, None
        self._raw.close()
        if connection is not None:
            connection.close()


class Pool:
    """Sends requests; usable from several threads, which never share a connection."""

    def __init__(self) -> None:
        self._idle: dict[tuple[object, ...], list[_Connection]] = {}
        # All that are open: an answer that nobody wanted to read has one, too.
        self._open: set[_Connection] = set()

    def close(self) -> None:
        """Close all connections; whoever reads from one in another thread meets its end."""
        self._idle.clear()
        for connection in list(self._open):
            connection.abandon()

    def send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] | None,
        *,
        context: ssl.SSLContext | None,
        proxy: Proxy | None,
        connect: float,
        read: float,
    ) -> Response:
        """Send a request and return the answer to it, whatever it is.

        Args:
            context: how TLS is spoken, with an https proxy too.
            connect, read: seconds to wait for a connection, and for the next bytes.

        Raises:
            RequestError: there is none.
        """
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        place = (tls, host, port, id(context), proxy and (proxy.tls, proxy.host, proxy.port))
        idle = self._idle.setdefault(place, [])
        connection = _take(idle)
        if connection is None:
            connection = _Connection(host, port, context if tls else None, proxy, self._open)
        target = quote(parts.path or "/", safe=_SAFE)
        target += f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        if proxy is not None and not tls:
            target = f"http://{parts.netloc}{target}"
            headers = {**headers, **proxy.headers}
        try:
            if connection.sock is None:
                connection.open(connect, context)
            connection.sock.settimeout(read)
            try:
                connection.request(method, target, body=body, headers=headers)
            except BrokenPipeError:
                pass  # the server may have answered before it had everything
            return Response(connection.getresponse(), connection, idle)
        except RequestError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            step = "tls" if context is not None and _is_of_tls(error) else ""
            raise RequestError(why(error), step) from error
        except BaseException:
            connection.close()
            raise


def _take(idle: list[_Connection]) -> _Connection | None:
    """Return an idle connection that the server has not closed."""
    while idle:
        try:
            connection = idle.pop()
        except IndexError:
            break  # another thread was faster
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        if not poll.poll(0):
            return connection
        connection.close()
    return None


class _Connection(http.client.HTTPConnection):
    """A connection to a server, perhaps through a proxy.

    Args:
        context: how TLS is spoken with the server; None: it is not.
        others: it is one of these as long as it is open.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        proxy: Proxy | None,
        others: set[_Connection],
    ) -> None:
        super().__init__(host, port)
        self.default_port = 443 if context else 80
        self.auto_open = 0
        self._context = context
        self._proxy = proxy
        self._others = others

    def close(self) -> None:
        """Close it; an answer that is read from it stays readable."""
        self._others.discard(self)
        super().close()

    def abandon(self) -> None:
        """Close it under another thread, which may wait for it and hold the lock of its reader."""
        self._others.discard(self)
        sock, self.sock = self.sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def open(self, seconds: float, context: ssl.SSLContext | None) -> None:
        """Connect.

        Args:
            context: how TLS is spoken with the proxy.

        Raises:
            RequestError: with the step that failed.
        """
        place = self._proxy or self
        try:
            sock = socket.create_connection((place.host, place.port), seconds)
        except (socket.gaierror, UnicodeError) as error:
            raise RequestError(why(error), "name") from error
        except OSError as error:
            raise RequestError(why(error), "connect") from error
        self.sock = sock
        self._others.add(self)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._proxy is not None and self._proxy.tls and context is not None:
            self.sock = _wrap(self.sock, context, self._proxy.host)
        if self._context is None:
            return
        if self._proxy is not None:
            self._ask_tunnel(self._proxy)
        self.sock = _wrap(self.sock, self._context, self.host)

    def _ask_tunnel(self, proxy: Proxy) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = http.client.HTTPResponse(self.sock, method="CONNECT")
        try:
            answer.begin()
        finally:
            answer.close()
        if answer.status != 200:
            raise RequestError(f"the proxy refuses: {answer.status} {answer.reason}")


def _wrap(sock: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    """Begin TLS over a connection, which may be TLS itself: through an https proxy."""
    import ssl

    try:
        if isinstance(sock, ssl.SSLSocket):
            from rootless.image.registry.tls_in_tls import TlsInTls

            return TlsInTls(sock, context, host)  # type: ignore[return-value]
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLError as error:
        raise RequestError(why(error), "tls") from error


def _is_of_tls(error: BaseException) -> bool:
    import ssl

    return isinstance(error, ssl.SSLError)


def why(error: BaseException) -> str:
    """Return the reason alone: the system's word, without numbers and the library's wrapping."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection"
    if isinstance(error, http.client.IncompleteRead):
        return "connection broken: the answer is incomplete"
    if isinstance(error, TimeoutError):
        return "timed out"
    text = getattr(error, "verify_message", "")
    if text:
        return f"certificate verify failed: {text}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
