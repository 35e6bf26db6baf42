"""HTTP/1.1 on one connection, and its takeover for the streams of attach and exec.

h11 knows the protocol, asyncio the socket. One request is at work at a time; while it is, the
connection is watched, so that work ends for a client that has gone.
"""

from __future__ import annotations

import asyncio
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from rootless import log
from rootless.errors import RlessError, escape
from rootless.linux import unix
from rootless.service import http
from rootless.service.http import HttpError, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Dispatch = Callable[[Request], Awaitable[Response | None]]

HEAD_TIME = 10.0  # seconds from the first byte of a head to its last
BODY_TIME = 60.0  # seconds that a body may be silent
_LINGER_TIME, _LINGER_MOST = 2.0, 16 << 20
_BLOCK = 65536
BUFFER = 32 << 10  # bytes that asyncio reads ahead, twice

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class GoneError(ConnectionError):
    """The client has closed the connection."""


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=http.HEAD_MOST)


class Connection:
    """One client's connection.

    Attributes:
        busy: a request is at work, or has begun to arrive.
        last: when the last byte came or went (`time.monotonic`).
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dispatch: Dispatch
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.busy = False
        self.last = time.monotonic()
        self._dispatch = dispatch
        self._parser = _parser()
        self._ahead = b""  # read, but not given to the parser
        self._whole = True  # the body of the request has been read
        self._answered = self._taken = False
        self._method = b""
        writer.transport.set_write_buffer_limits(high=_BLOCK)

    async def serve(self) -> None:
        """Answer requests until one side closes the connection."""
        try:
            while await self._serve_one():
                pass
        except (ConnectionError, h11.LocalProtocolError):
            pass
        finally:
            self.busy = False
            self.writer.close()

    async def refuse(self, status: int, message: str) -> None:
        """Answer without having read anything, and close."""
        try:
            await self._send_error(status, message)
        except ConnectionError:
            pass
        finally:
            self.writer.close()

    # -- requests --------------------------------------------------------------------------------

    async def _serve_one(self) -> bool:
        """Answer one request; tell whether another one may follow."""
        try:
            request = await self._read_request()
        except HttpError as error:
            await self._send_error(error.status, error.message)
            await self._linger()
            return False
        if request is None:
            return False
        await self._answer(request)
        if self._taken:
            return False
        if not self._whole:
            await self._linger()
            return False
        states = self._parser.our_state, self._parser.their_state
        if states != (h11.DONE, h11.DONE):
            return False
        self._ahead = self._parser.trailing_data[0]
        self._parser = _parser()
        self.busy = self._answered = False
        return True

    async def _read_request(self) -> Request | None:
        """Return the next request; None: the client has closed the connection."""
        head, found = self._ahead, -1
        self._ahead = b""
        end: float | None = None
        while (found := head.find(b"\r\n\r\n")) < 0:
            if b"\n\n" in head:
                raise HttpError(400, "a line of the head does not end in CR LF")
            if len(head) > http.HEAD_MOST:
                raise HttpError(431, "the head of the request is too long")
            if head:
                self.busy = True
                end = end or time.monotonic() + HEAD_TIME
            try:
                left = None if end is None else max(0.0, end - time.monotonic())
                data = await asyncio.wait_for(self.reader.read(_BLOCK), left)
            except asyncio.TimeoutError:
                raise HttpError(408, "the head of the request took too long") from None
            self.last = time.monotonic()
            if not data:
                return None
            head += data
        self.busy = True
        if found > http.HEAD_MOST:
            raise HttpError(431, "the head of the request is too long")
        http.check_head(head[:found])
        self._whole = False
        try:
            self._parser.receive_data(head)
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(400, f"bad request: {escape(str(error))}") from None
        assert isinstance(event, h11.Request)
        if event.http_version not in (b"1.0", b"1.1"):
            raise HttpError(400, "only version 1.1 of HTTP is spoken")
        self._method = event.method
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        http.check_origin(headers)
        path, version, query = http.split_target(event.target)
        request = Request(event.method.decode("latin-1"), path, version, query, headers, self)
        if not self._has_body(headers):
            await self.body(0)
        return request

    @staticmethod
    def _has_body(headers: dict[str, str]) -> bool:
        return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            HttpError: it is framed wrongly, or the client says nothing for too long.
            GoneError: the client has closed the connection.
        """
        while not self._whole:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(400, f"bad body: {escape(str(error))}") from None
            if event is h11.NEED_DATA:
                if self._parser.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await self.write(self._encode(go_on))
                try:
                    data = await asyncio.wait_for(self.reader.read(_BLOCK), BODY_TIME)
                except asyncio.TimeoutError:
                    raise HttpError(408, "the body took too long") from None
                self.last = time.monotonic()
                if not data:
                    raise GoneError
                self._parser.receive_data(data)
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                self._whole = True

    async def body(self, most: int) -> bytes:
        """Return the whole body.

        Raises:
            HttpError: it is larger than `most`, or as `chunks`.
        """
        data = b""
        async for chunk in self.chunks():
            data += chunk
            if len(data) > most:
                raise HttpError(413, f"the body is larger than {most} bytes")
        return data

    # -- answers ---------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._dispatch(request)
            if response is not None:
                await self._send(response)
        except HttpError as error:
            await self._fail(error.status, error.message)
        except RlessError as error:
            await self._fail(http.status_of(error), str(error))
        except (GoneError, asyncio.CancelledError):
            raise
        except Exception as error:  # a ConnectionError, too: it is not of this connection
            if log.enabled:
                import traceback

                log.debug(traceback.format_exc())
            await self._fail(500, f"internal error: {type(error).__name__}: {error}")

    async def _fail(self, status: int, message: str) -> None:
        """Answer with an error; what has begun cannot be answered any more and ends."""
        if self._answered:
            self.writer.transport.abort()
            raise GoneError
        if status == 304:
            await self._send(Response(b"", 304))
        else:
            await self._send(http.refusal(status, escape(message)))

    async def _send_error(self, status: int, message: str) -> None:
        """Answer what the parser knows nothing of, and say that this is the end."""
        body, kind = http.refusal(status, message).encoded()
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {kind}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in http.usual_headers()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        await self.write("\r\n".join(lines).encode() + body)

    async def _send(self, response: Response) -> None:
        body, kind = response.encoded()
        headers = dict(response.headers)
        if response.status not in (204, 304):
            headers.setdefault("Content-Type", kind)
            headers["Content-Length"] = str(len(body))
        if not self._whole:
            headers["Connection"] = "close"
        data = self._head(response.status, headers)
        if response.status not in (204, 304) and self._method != b"HEAD":
            data += self._encode(h11.Data(data=body))
        data += self._encode(h11.EndOfMessage())
        await self.write(data)

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        self._answered = True
        event = h11.Response(
            status_code=status,
            reason=HTTPStatus(status).phrase,
            headers=[*http.usual_headers(), *headers.items()],
        )
        return self._encode(event)

    def _encode(self, event: h11.Event) -> bytes:
        data: bytes = self._parser.send(event) or b""
        return data

    async def begin(self, kind: str, headers: dict[str, str] | None = None) -> None:
        """Send the head of an answer of unknown length; its pieces follow by `piece`."""
        await self.write(self._head(200, {"Content-Type": kind, **(headers or {})}))

    @property
    def begun(self) -> bool:
        """Tell whether an answer has begun."""
        return self._answered

    async def piece(self, data: bytes) -> None:
        """Send a piece of an answer that was begun."""
        await self.write(self._encode(h11.Data(data=data)))

    async def finish(self) -> None:
        """End an answer that was begun."""
        await self.write(self._encode(h11.EndOfMessage()))

    async def write(self, data: bytes) -> None:
        """Write bytes, and wait while the client does not keep up.

        Raises:
            GoneError: the client has closed the connection.
        """
        self.last = time.monotonic()
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError as error:
            raise GoneError from error

    async def take_over(self, request: Request, kind: str) -> bytes:
        """Make the connection a plain stream; return what the client has sent of it already.

        The two answers are written by hand: an HTTP library frames a 200 without a length.
        """
        self._answered = self._taken = True
        if "upgrade" in request.headers:
            first = ["HTTP/1.1 101 UPGRADED", "Connection: Upgrade", "Upgrade: tcp"]
        else:
            first, kind = ["HTTP/1.1 200 OK"], RAW
        lines = [*first, f"Content-Type: {kind}"]
        lines += [f"{name}: {value}" for name, value in http.usual_headers()]
        await self._write_alone("\r\n".join([*lines, "", ""]).encode())
        ahead: bytes = self._parser.trailing_data[0]
        return ahead

    async def _write_alone(self, head: bytes) -> None:
        """Write a head that no read of the client's gives together with what comes after it.

        docker-py throws away what its HTTP library has read behind a head. Linux ends a read from a
        unix socket at data that came with a descriptor; nobody asks for this one.
        """
        transport = self.writer.transport
        if not transport.get_write_buffer_size() and not transport.is_closing():
            peer = transport.get_extra_info("socket").fileno()
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                head = head[unix.send(peer, head, [nothing]) :]
            except BlockingIOError:
                pass
            except ConnectionError as error:
                raise GoneError from error
            finally:
                os.close(nothing)
        if head:
            await self.write(head)

    # -- the client's end ------------------------------------------------------------------------

    async def watch(self, work: Awaitable[Response | None]) -> Response | None:
        """Do the work of a request, and end it when the client closes the connection.

        Raises:
            GoneError: the client has closed it.
        """
        task = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(self._see_end())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                raise GoneError
            return task.result()
        finally:
            for one in (task, watcher):
                if not one.done():
                    one.cancel()
            await asyncio.wait((task, watcher))
            if not task.cancelled():
                task.exception()  # looked at: `result` has told the caller

    async def _see_end(self) -> None:
        """Wait for the end of what the client sends; it may send its next requests meanwhile."""
        ahead = 0
        while True:
            try:
                data = await self.reader.read(_BLOCK)
            except ConnectionError:
                return
            if not data:
                return
            self._parser.receive_data(data)
            ahead += len(data)
            if ahead > _BLOCK:
                await asyncio.Event().wait()

    async def _linger(self) -> None:
        """Read on for a moment, so that the client gets the answer before the end."""
        try:
            self.writer.write_eof()
            end, size = time.monotonic() + _LINGER_TIME, 0
            while size < _LINGER_MOST:
                left = max(0.0, end - time.monotonic())
                data = await asyncio.wait_for(self.reader.read(_BLOCK), left)
                size += len(data)
                if not data:
                    return
        except (asyncio.TimeoutError, OSError):
            pass  # it has had its time
