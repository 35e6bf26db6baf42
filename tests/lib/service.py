"""`rless service` for tests, and a client that says exactly the bytes that it is told to."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.lib.product import Product

PATIENCE = 60.0  # seconds: a machine may be busy


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)


class Service:
    """A service that runs, and requests to it."""

    def __init__(self, path: str, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.process = process
        self.headers: dict[str, str] = {}

    def ask(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the body of an answer: JSON as values, else bytes."""
        connection = _UnixConnection(self.path)
        try:
            given = dict(headers or {})
            data = body
            if body is not None and not isinstance(body, bytes):
                data = json.dumps(body)
                given.setdefault("Content-Type", "application/json")
            connection.request(method, target, data, given)
            answer = connection.getresponse()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            raw = answer.read()
            if answer.getheader("Content-Type", "").startswith("application/json"):
                lines = raw.split(b"\r\n") if b"\r\n" in raw else [raw]
                values = [json.loads(line) for line in lines if line.strip()]
                return answer.status, values[0] if len(values) == 1 else values
            return answer.status, raw
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Return all that the service says to these bytes until it closes the connection."""
        with connect(self.path) as client:
            client.sendall(data)
            return read_all(client)


def client_of(path: str) -> Service:
    """Return what asks a service that others have started."""
    return Service(path, cast("subprocess.Popen[bytes]", None))


def connect(path: str) -> socket.socket:
    """Return a connection to a unix socket."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    try:
        client.connect(path)
    except OSError:
        client.close()
        raise
    return client


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of an answer, and what came with it of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(65536)
        assert chunk, data
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


@contextmanager
def serving(rless: Product, directory: Path, *options: str) -> Iterator[Service]:
    """Run a service on a socket in a directory of its own."""
    directory.mkdir(mode=0o700, exist_ok=True)
    path = str(directory / "d.sock")
    process = rless.start("service", "--time", "0", *options, path)
    service = Service(path, process)

    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # it is told once clients can connect
        assert line == f"unix://{path}\n".encode(), process.communicate()
        yield service
    finally:
        process.terminate()
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
