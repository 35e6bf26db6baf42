"""What the connection layer takes, what it refuses, and who may connect: classes 72 to 76."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.lib.product import Product, wait_for
from tests.lib.service import PATIENCE, Service, connect, read_all, read_head, serving

if TYPE_CHECKING:
    from pathlib import Path

PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n"


def test_ping_says_what_the_clients_look_for(service: Service) -> None:
    for target in ("/_ping", "/v1.24/_ping", "/v1.45/_ping"):
        assert service.ask("GET", target) == (200, b"OK")
    assert service.headers["api-version"] == "1.45"
    assert service.headers["ostype"] == "linux"
    assert service.headers["docker-experimental"] == "false"
    assert service.headers["builder-version"] == "1"
    assert service.headers["swarm"] == "inactive"
    assert service.ask("HEAD", "/_ping") == (200, b"")
    status, version = service.ask("GET", "/version")
    assert (status, version["ApiVersion"], version["MinAPIVersion"]) == (200, "1.45", "1.24")
    assert version["Version"].startswith("26.1.0-rless.")


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/v1.46/_ping", 400, "too new"),
        ("/v1.23/_ping", 400, "too old"),
        ("/nothing", 404, "page not found"),
        ("/swarm", 503, "not a swarm manager"),
        ("/containers/none/json", 404, "No such container"),
        ("/images/docker.io%2Flibrary%2Fnone/json", 404, "No such image"),
        ("/images/docker.io/library/none/json", 404, "No such image"),
        ("/volumes/none", 404, "No such volume"),
        ("/networks/nonet", 404, "No such network"),
        ("/containers/..%2f..%2fnames/json", 404, "No such container"),
        ("/containers/a%00b/json", 400, "NUL"),
        ("/containers/json?filters=%7B%22nothing%22:[%22a%22]%7D", 400, "invalid filter"),
        ("/containers/json?filters=[", 400, "filters is not JSON"),
        ("/containers/json?filters=%7B%22status%22:[%22dying%22]%7D", 400, "'dying' is not one of"),
        ("/containers/create", 404, "page not found"),
        ("/containers/prune", 404, "page not found"),
        ("/containers/json?limit=x", 400, "not a number"),
    ],
)
def test_refusal_has_status_and_message(
    service: Service, target: str, status: int, message: str
) -> None:
    got, body = service.ask("GET", target)
    assert got == status
    assert message in body["message"]


def test_several_requests_share_a_connection(service: Service) -> None:
    with connect(service.path) as client:
        for _ in range(3):
            client.sendall(PING + b"\r\n")
            head, rest = read_head(client)
            assert head.startswith(b"HTTP/1.1 200")
            while len(rest) < 2:
                rest += client.recv(10)
            assert rest == b"OK"
        client.sendall(2 * (PING + b"\r\n"))  # at once
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /_ping HTTP/1.1\nHost: d\n\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\nX: y\r\n\r\n",
        PING + b" folded: x\r\n\r\n",
        PING + b"Odd : x\r\n\r\n",
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nTransfer-Encoding: chunked"
        b"\r\n\r\n0\r\n\r\n",
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: d\r\n\r\n",
    ],
)
def test_odd_framing_is_refused_and_the_connection_closed(service: Service, data: bytes) -> None:
    said = service.raw(data + PING + b"\r\n")
    assert said.startswith(b"HTTP/1.1 400"), said
    assert said.count(b"HTTP/1.1") == 1


def test_browser_is_refused(service: Service) -> None:
    for name in ("Origin", "Sec-Fetch-Site"):
        status, body = service.ask("GET", "/version", headers={name: "http://evil"})
        assert (status, body["message"]) == (403, "requests of browsers are refused")


def test_large_heads_and_bodies_are_bounded(service: Service) -> None:
    secret = b"X-Registry-Config: " + b"a" * (200 << 10)
    assert service.raw(PING + secret + b"\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert service.raw(PING + b"X: " + b"a" * (300 << 10)).startswith(b"HTTP/1.1 431")
    long = b"GET /version?a=" + b"a" * (70 << 10) + b" HTTP/1.1\r\nHost: d\r\n\r\n"
    assert service.raw(long).startswith(b"HTTP/1.1 414")
    large = b"GET /version HTTP/1.1\r\nHost: d\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9000000
    assert service.raw(large).startswith(b"HTTP/1.1 413")


def test_half_open_requests_do_not_keep_others_waiting(service: Service) -> None:
    clients = [connect(service.path) for _ in range(400)]
    try:
        for client in clients:
            client.sendall(b"GET /_ping HT")
        assert service.ask("GET", "/_ping") == (200, b"OK")
    finally:
        for client in clients:
            client.close()


def test_one_connection_too_many_is_refused(service: Service) -> None:
    clients = [connect(service.path) for _ in range(512)]
    try:
        for client in clients[-1:]:
            client.sendall(PING + b"\r\n")
            assert read_head(client)[0].startswith(b"HTTP/1.1 200")
        with connect(service.path) as client:
            assert read_all(client).startswith(b"HTTP/1.1 503")
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: service.raw(PING + b"Connection: close\r\n\r\n")[9:12] == b"200", "room")


def test_socket_is_for_the_user_only(service: Service) -> None:
    status = os.lstat(service.path)
    assert status.st_mode & 0o777 == 0o600
    assert os.lstat(os.path.dirname(service.path)).st_mode & 0o777 == 0o700


def test_other_user_is_turned_away(service: Service, rless: Product) -> None:
    """A subordinate id is another user for the kernel; the modes are opened for it to get there."""
    program = f"""if 1:
        import os, socket
        os.setuid(1)
        client = socket.socket(socket.AF_UNIX)
        client.connect({service.path!r})
        try:
            client.sendall({PING + bytes([13, 10])!r})
            print("said", client.recv(100))
        except ConnectionError:
            print("said", b"")
        """
    opened = []
    directory = os.path.dirname(service.path)
    try:
        while directory != "/":
            mode = os.lstat(directory).st_mode & 0o7777
            if not mode & 1 and os.lstat(directory).st_uid == os.getuid():
                opened.append((directory, mode))
                os.chmod(directory, mode | 0o711)
            directory = os.path.dirname(directory)
        os.chmod(service.path, 0o666)
        done = rless("unshare", sys.executable, "-c", program).expect()
    finally:
        for path, mode in opened:
            os.chmod(path, mode)
    assert done.out == "said b''\n"


def test_service_ends_when_nobody_is_there(rless: Product) -> None:
    with serving(rless, rless.base / "idle", "--time", "1") as service:
        with connect(service.path):  # an idle connection does not keep it
            assert service.process.wait(PATIENCE) == 0
        assert not os.path.lexists(service.path)


def test_second_service_leaves_the_first_alone(service: Service, rless: Product) -> None:
    error = rless("service", service.path).expect(125).one_line_error()
    assert "answers" in error
    assert service.ask("GET", "/_ping")[0] == 200


def test_socket_of_a_killed_service_is_replaced(rless: Product) -> None:
    directory = rless.base / "killed"
    with serving(rless, directory) as service:
        service.process.kill()
        service.process.wait(PATIENCE)
        assert os.path.lexists(service.path)
        with serving(rless, directory) as second:
            assert second.ask("GET", "/_ping")[0] == 200


def test_other_kinds_of_sockets_are_refused(rless: Product, tmp_path: Path) -> None:
    assert "ssh://" in rless("service", "tcp://127.0.0.1:2375").expect(125).one_line_error()
    long = f"unix://{tmp_path}/{'a' * 120}"
    assert "107 bytes" in rless("service", long).expect(125).one_line_error()
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert "mode" in rless("service", f"{open_to_all}/s").expect(125).one_line_error()


def test_client_that_resets_its_connection_does_no_harm(service: Service) -> None:
    for _ in range(50):
        client = connect(service.path)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /containers/json HTTP/1.1\r\nHost: d\r\n\r\n")
        client.close()
    begin = time.monotonic()
    assert service.ask("GET", "/_ping") == (200, b"OK")
    assert time.monotonic() - begin < PATIENCE
