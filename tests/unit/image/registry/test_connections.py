"""Connections to servers: kept, replaced, through proxies with TLS, and what breaks off."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless.image.registry.connections import Pool, Proxy, RequestError
from tests.lib.registry_servers import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"


class Server:
    """Answers every request with the same bytes, and notes each; it may be a proxy for CONNECT."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.accepted = 0
        self.ends = False  # after one answer
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as file:
                while head := self._head(file.readline):
                    self.heads.append(head)
                    if head.startswith(b"CONNECT "):
                        self._tunnel(connection, head.split()[1].decode())
                        return
                    connection.sendall(self.answer)
                    if self.ends:
                        return

    @staticmethod
    def _head(readline: Callable[[], bytes]) -> bytes:
        head = b""
        while (line := readline()) not in (b"", b"\r\n"):
            head += line
        return head

    def _tunnel(self, connection: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            connection.sendall(b"HTTP/1.1 200 yes\r\n\r\n")

            def carry() -> None:
                with contextlib.suppress(OSError):
                    while data := other.recv(65536):
                        connection.sendall(data)

            thread = threading.Thread(target=carry, daemon=True)
            thread.start()
            with contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
            thread.join()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def serving(answer: bytes, tls: ssl.SSLContext | None = None) -> Server:
        made.append(Server(answer, tls))
        return made[-1]

    yield serving
    for server in made:
        server.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


def ask(
    pool: Pool, url: str, context: ssl.SSLContext | None = None, proxy: Proxy | None = None
) -> bytes:
    response = pool.send("GET", url, {}, None, context=context, proxy=proxy, connect=30, read=30)
    data = b""
    with contextlib.closing(response):
        while part := response.read1(65536):
            data += part
    return data


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_connection_is_kept_once_the_body_is_read(
    serve: Callable[..., Server], pool: Pool, answer: bytes
) -> None:
    server = serve(answer)
    url = f"http://127.0.0.1:{server.port}/a b?q=\N{SNOWMAN}"
    assert [ask(pool, url) for _ in range(3)] == [b"hi"] * 3
    assert server.accepted == 1
    assert server.heads[0].startswith(b"GET /a%20b?q=%E2%98%83 HTTP/1.1\r\n")
    pool.send("GET", url, {}, None, context=None, proxy=None, connect=30, read=30).close()
    assert ask(pool, url) == b"hi"
    assert server.accepted == 2


def test_connection_that_the_server_closed_is_replaced(
    serve: Callable[..., Server], pool: Pool
) -> None:
    server = serve(OK)
    server.ends = True
    url = f"http://127.0.0.1:{server.port}/"
    assert ask(pool, url) == b"hi"
    (idle,) = pool._idle.values()
    assert idle[0].sock.recv(1, socket.MSG_PEEK) == b""  # until its end has arrived
    assert ask(pool, url) == b"hi"
    assert server.accepted == 2


def test_closed_pool_ends_who_reads(serve: Callable[..., Server], pool: Pool) -> None:
    server = serve(OK[:-1])  # and then nothing
    url = f"http://127.0.0.1:{server.port}/"
    response = pool.send("GET", url, {}, None, context=None, proxy=None, connect=30, read=600)
    assert response.read1(10) == b"h"
    ended: list[BaseException] = []

    def read() -> None:
        try:
            response.read1(10)
        except RequestError as error:
            ended.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    pool.close()
    thread.join(60)
    assert not thread.is_alive()
    assert len(ended) == 1
    response.close()


@pytest.mark.parametrize("answer", [OK[:-1], CHUNKED[:-6], CHUNKED[:-12], b"nonsense\r\n\r\n", b""])
def test_answer_that_breaks_off_is_a_failure(
    serve: Callable[..., Server], pool: Pool, answer: bytes
) -> None:
    server = serve(answer)
    server.ends = True
    with pytest.raises(RequestError) as caught:
        ask(pool, f"http://127.0.0.1:{server.port}/")
    assert caught.value.step == ""


def test_steps_of_failures_are_told_apart(pool: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url, step in (
        (f"http://127.0.0.1:{port}/", "connect"),
        ("http://nowhere.invalid/", "name"),
    ):
        with pytest.raises(RequestError) as caught:
            ask(pool, url)
        assert caught.value.step == step, url


def test_header_cannot_begin_another(serve: Callable[..., Server], pool: Pool) -> None:
    server = serve(OK)
    with pytest.raises(RequestError):
        pool.send(
            "GET",
            f"http://127.0.0.1:{server.port}/",
            {"Authorization": "x\r\nHost: other"},
            None,
            context=None,
            proxy=None,
            connect=30,
            read=30,
        )
    assert server.heads == []


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tls_goes_through_a_proxy(
    serve: Callable[..., Server], pool: Pool, tmp_path: Path, scheme: str
) -> None:
    authority = Authority(tmp_path / "ca")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue("server"))
    size = 300_000  # several records
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    server = serve(answer, tls)
    middle = serve(b"", tls if scheme == "https" else None)
    proxy = Proxy(f"{scheme}://me:pass@127.0.0.1:{middle.port}")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    url = f"https://127.0.0.1:{server.port}/"
    for _ in range(2):
        assert len(ask(pool, url, context, proxy)) == size
    assert (server.accepted, middle.accepted) == (1, 1)
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in middle.heads[0]
    assert b"Proxy-Authorization" not in b"".join(server.heads)
    with pytest.raises(RequestError) as caught:  # the inner server is verified, too
        ask(pool, url, ssl.create_default_context(), proxy)
    assert caught.value.step == "tls"
    pool.close()
    closing = serve(answer.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), tls)
    assert len(ask(pool, f"https://127.0.0.1:{closing.port}/", context, proxy)) == size
