"""Class 76: how long a client may be silent; the limits of a request before its answer."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from rootless.service import connection as module
from rootless.service.http import DEPTH_MOST, HttpError, Request, Response, decode_json
from rootless.service.inputs import filters


def answer(sent: bytes) -> bytes:
    """Return what is answered to a client that sends this, and says no more."""

    async def dispatch(request: Request) -> Response | None:
        await request.connection.body(100)
        raise HttpError(404, "it was read")

    async def serve() -> bytes:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, sent)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        task = asyncio.create_task(module.Connection(reader, writer, dispatch).serve())
        said = await loop.sock_recv(theirs, 65536)
        theirs.close()
        await task
        await writer.wait_closed()
        return said

    return asyncio.run(asyncio.wait_for(serve(), 30))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET /_ping HT", b"the head of the request took too long"),
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nabc", b"the body took too long"),
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc", b"it was read"),
    ],
)
def test_silent_client_is_told_and_left(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, said: bytes
) -> None:
    monkeypatch.setattr(module, "HEAD_TIME", 0.01)
    monkeypatch.setattr(module, "BODY_TIME", 0.01)
    assert said in answer(sent)


def test_depth_of_json_is_bounded() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    decode_json(nested(DEPTH_MOST), "body")
    for levels in (DEPTH_MOST + 1, 100_000):
        with pytest.raises(HttpError) as refused:
            decode_json(nested(levels), "body")
        assert refused.value.status == 400


def test_values_of_filters_are_bounded() -> None:
    def asked(count: int) -> Request:
        query = {"filters": [json.dumps({"label": [f"l{one}" for one in range(count)]})]}
        return Request("GET", "/containers/json", (1, 45), query, {}, None)  # type: ignore[arg-type]

    assert len(filters(asked(1000), ["label"])["label"]) == 1000
    with pytest.raises(HttpError, match="more than 1000 values"):
        filters(asked(1001), ["label"])
