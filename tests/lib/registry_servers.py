"""What stands around a registry in tests: an authority, a token server, a faulty line.

authority = Authority(directory)                   # certificates by openssl
with images.registry(tls=authority.tls()) as host: ...
with token_server(authority, {"me": "secret"}) as (url, section):
    with images.registry(token=section) as host: ...
with FaultyProxy(host) as proxy:                   # forwards to host, as the test tells it
    proxy.faults.append(Fault("GET", "/blobs/", cut=1000))
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lib import images


class Authority:
    """A certificate authority of one test, with a server certificate for 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self.key = directory / "ca.key"
        _openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            f" -subj /CN=test-authority -keyout {self.key} -out {self.certificate}"
            " -addext basicConstraints=critical,CA:TRUE"
        )

    def issue(self, name: str, *, rsa: bool = False) -> tuple[Path, Path]:
        """Return a certificate for 127.0.0.1 and `name`, and its key."""
        key, request, made = (self.directory / f"{name}.{kind}" for kind in ("key", "csr", "cert"))
        kind = "rsa:2048" if rsa else "ec -pkeyopt ec_paramgen_curve:prime256v1"
        _openssl(f"req -newkey {kind} -nodes -subj /CN={name} -keyout {key} -out {request}")
        extensions = self.directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            f"x509 -req -in {request} -CA {self.certificate} -CAkey {self.key} -CAcreateserial"
            f" -days 2 -out {made} -extfile {extensions}"
        )
        return made, key

    def tls(self, *, clients: bool = False) -> dict[str, Any]:
        """Return the section http.tls of a registry's configuration.

        Args:
            clients: only those with a certificate of this authority may come.
        """
        certificate, key = self.issue("server")
        section: dict[str, Any] = {"certificate": str(certificate), "key": str(key)}
        if clients:
            section["clientcas"] = [str(self.certificate)]
        return section


def _openssl(words: str) -> None:
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of a connection that was cut: that is what is tested."""


@contextlib.contextmanager
def _serve(
    handler: type[http.server.BaseHTTPRequestHandler], tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- tokens ------------------------------------------------------------------------------------


@contextlib.contextmanager
def token_server(
    authority: Authority, users: Mapping[str, str], seconds: int = 300, *, tls: bool = False
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Run a token server; yield the paths that it is asked for, and a registry's auth.token.

    Everybody may pull what is below public/, users may do all. A wrong password is refused.
    """
    certificate, key = authority.issue("token", rsa=True)
    chain = _openssl_der(certificate)
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            asked.append(self.path)
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            user = ""
            if header := self.headers.get("Authorization"):
                pair = base64.b64decode(header.removeprefix("Basic ")).decode()
                user, _, password = pair.partition(":")
                if users.get(user) != password:
                    self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]})
                    return
            access = []
            for scope in query.get("scope", []):
                kind, name, actions = scope.split(":")
                given = actions.split(",") if user else ["pull"] if name[:7] == "public/" else []
                access.append({"type": kind, "name": name, "actions": given})
            now = int(time.time())
            claims = {
                "iss": "test-issuer",
                "sub": user,
                "aud": query.get("service", [""])[0],
                "exp": now + seconds,
                "nbf": now - 10,
                "iat": now,
                "jti": str(len(asked)),
                "access": access,
            }
            self._answer(200, {"token": _sign(claims, chain, key), "expires_in": seconds})

        def _answer(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with _serve(Handler, (certificate, key) if tls else None) as host:
        yield (
            asked,
            {
                "realm": f"http{'s' * tls}://{host}/token",
                "service": "test-service",
                "issuer": "test-issuer",
                "rootcertbundle": str(authority.certificate),
            },
        )


def _openssl_der(certificate: Path) -> str:
    done = subprocess.run(
        ["openssl", "x509", "-in", str(certificate), "-outform", "DER"],
        check=True,
        capture_output=True,
    )
    return base64.b64encode(done.stdout).decode()


def _sign(claims: object, chain: str, key: Path) -> str:
    """Return a JSON Web Token signed by RS256, with its certificate in it."""
    head = {"alg": "RS256", "typ": "JWT", "x5c": [chain]}
    signed = ".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(key)],
        input=signed.encode(),
        check=True,
        capture_output=True,
    )
    return f"{signed}.{_url64(done.stdout)}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# -- a faulty line -----------------------------------------------------------------------------


@dataclass
class Fault:
    """What goes wrong with the next request that fits; used up by it.

    Attributes:
        method, path: whose requests: a method ("" for any) and a part of the path.
        status, headers, body: answered in place of the registry.
        cut: bytes of the answer's body after which the connection ends.
        cut_upload: bytes of the request's body after which both connections end.
        lose: the request is carried out, but its answer is lost.
        slow: seconds that it waits first.
        stall: seconds that nothing comes before it is cut.
    """

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    cut_upload: int = -1
    lose: bool = False
    slow: float = 0.0
    stall: float = 0.0


class FaultyProxy:
    """Forward requests to a registry, except for the faults that a test wants.

    Attributes:
        host: where it listens. faults: those to come.
        requests: "METHOD PATH" of each request. headers: the headers of each.
    """

    def __init__(self, upstream: str) -> None:
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the library's name
                outer.requests.append(f"{self.command} {self.path}")
                outer.headers.append(dict(self.headers))
                outer._answer(self, outer._fault(self.command, self.path), upstream)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = _serve(Handler)

    def __enter__(self) -> FaultyProxy:
        self.host = self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.__exit__(kind, value, traceback)

    def count(self, method: str, part: str = "") -> int:
        """Return how many requests there were of a method with a part of a path."""
        return sum(1 for line in self.requests if line.startswith(method + " ") and part in line)

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.method in ("", method) and fault.path in path:
                    self.faults.remove(fault)
                    return fault
        return None

    def _answer(self, handler: Any, fault: Fault | None, upstream: str) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        if fault is not None:
            time.sleep(fault.slow)
            if fault.status:
                handler.rfile.read(length)
                handler.send_response(fault.status)
                for name, value in {
                    "Content-Length": str(len(fault.body)),
                    **fault.headers,
                }.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(fault.body)
                return
        line = http.client.HTTPConnection(upstream, timeout=30)
        with contextlib.closing(line):
            line.putrequest(
                handler.command, handler.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in handler.headers.items():
                line.putheader(name, value)
            line.endheaders()
            left = length
            while left:
                most = (
                    fault.cut_upload - (length - left) if fault and fault.cut_upload >= 0 else left
                )
                data = handler.rfile.read(min(left, 65536, most)) if most else b""
                if not data:
                    self._cut(handler)
                    return
                line.send(data)
                left -= len(data)
            answer = line.getresponse()
            if fault is not None and fault.lose:
                answer.read()
                self._cut(handler)
                return
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("server", "date", "connection", "transfer-encoding"):
                    handler.send_header(name, value)
            if answer.headers.get("Transfer-Encoding"):
                handler.send_header("Connection", "close")
                handler.close_connection = True
            handler.end_headers()
            sent = 0
            while handler.command != "HEAD" and (data := answer.read(16384)):
                if fault is not None and 0 <= fault.cut < sent + len(data):
                    handler.wfile.write(data[: fault.cut - sent])
                    time.sleep(fault.stall)
                    self._cut(handler)
                    return
                handler.wfile.write(data)
                sent += len(data)

    def _cut(self, handler: Any) -> None:
        handler.wfile.flush()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)


def tags(host: str, repository: str) -> list[str]:
    """Return the tags that a registry has of a repository."""
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as line:
        line.request("GET", f"/v2/{repository}/tags/list")
        document = json.loads(line.getresponse().read())
    return sorted(document.get("tags") or [])


def manifest(host: str, repository: str, tag: str) -> tuple[bytes, str]:
    """Return a manifest of a registry and its media type."""
    kinds = [images.OCI_MANIFEST, images.OCI_INDEX, images.DOCKER_MANIFEST]
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as line:
        line.request(
            "GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ",".join(kinds)}
        )
        answer = line.getresponse()
        return answer.read(), answer.headers.get("Content-Type", "")
