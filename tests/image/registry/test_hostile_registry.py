"""Hostile registries and networks: attack classes 19, 21 and 22 of docs/security.md."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.registry import http as client
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import OCI_INDEX, OCI_MANIFEST, Image, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

IMAGE = Image([layer({"f": os.urandom(100_000)}), layer({"g": "two"})])
SECRET = base64.b64encode(b"me:pass-word").decode()


class Server:
    """A server whose answers a test decides.

    Attributes:
        routes: path (without query) -> function that answers; "*" for all others.
        requests: (method, path with query, headers) of every request.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Callable[[Any], None]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the library's name
                outer.requests.append((self.command, self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                route = outer.routes.get(path) or outer.routes.get("*")
                if route is None:
                    self.send_error(404)
                    return
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    route(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{'https' if context else 'http'}://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, image: Image = IMAGE, name: str = "x", tag: str = "1") -> str:
        """Answer as an honest registry would; return the image's reference."""
        base = f"/v2/{name}"
        self.routes["/v2/"] = send(b"{}")
        for reference in (tag, image.digest):
            self.routes[f"{base}/manifests/{reference}"] = send(image.manifest_data, OCI_MANIFEST)
        for digest, data in image.all_blobs().items():
            self.routes[f"{base}/blobs/{digest}"] = send(data)
        return f"{self.host}/{name}:{tag}"

    def with_header(self, name: str) -> list[str]:
        return [path for _, path, headers in self.requests if name in headers]


def send(
    data: bytes, kind: str = "application/octet-stream", status: int = 200, **headers: str
) -> Callable[[Any], None]:
    """Return an answer with that body."""

    def answer(handler: Any) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(data)))
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(url: str, status: int = 307) -> Callable[[Any], None]:
    return send(b"", status=status, Location=url)


def need_basic(then: Callable[[Any], None]) -> Callable[[Any], None]:
    """Ask for basic authentication first."""

    def answer(handler: Any) -> None:
        if handler.headers.get("Authorization") == f"Basic {SECRET}":
            then(handler)
        else:
            send(b"", status=401, WWW_Authenticate='Basic realm="x"')(handler)

    return answer


def need_token(realm: str, then: Callable[[Any], None]) -> Callable[[Any], None]:
    """Ask for a token first."""

    def answer(handler: Any) -> None:
        if handler.headers.get("Authorization") == "Bearer good-token":
            then(handler)
        else:
            challenge = f'Bearer realm="{realm}",service="svc",scope="repository:evil:push"'
            send(b"", status=401, WWW_Authenticate=challenge)(handler)

    return answer


def blob_paths(image: Image = IMAGE, name: str = "x") -> list[str]:
    return [f"/v2/{name}/blobs/{digest}" for digest in image.all_blobs()]


LAYER = f"/v2/x/blobs/{images.digest(IMAGE.blobs[0])}"
MANIFEST = "/v2/x/manifests/1"


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Return two servers: on different ports, so different places for a credential."""
    made = [Server(), Server()]
    yield made
    for server in made:
        server.close()


@pytest.fixture
def server(servers: list[Server]) -> Server:
    return servers[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting between attempts, no credentials of this machine, no proxies."""
    monkeypatch.setattr(client, "_pause", lambda attempt: 0.01)
    monkeypatch.setattr(limits, "ATTEMPTS", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def log_in(tmp_path: Path, *hosts: str) -> None:
    auths = {host: {"auth": SECRET} for host in hosts}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))


def refused(workshop: Workshop, name: str, why: str) -> RlessError:
    """Check for one line and a store without a byte of the image."""
    with pytest.raises(RlessError, match=why) as caught:
        workshop.pull(name)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 700
    assert "pass-word" not in text and SECRET not in text and "good-token" not in text
    assert not os.path.exists(workshop.root) or workshop.contents() == {}
    return caught.value


# -- an honest registry, for the frame -------------------------------------------------------------


def test_simulated_registry_itself_works(workshop: Workshop, server: Server) -> None:
    image = workshop.pull(server.serve())
    assert image.id == IMAGE.id and image.digest == IMAGE.digest


# -- 21: credentials -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_21_redirect_to_another_port_gets_no_credentials(
    workshop: Workshop, servers: list[Server], tmp_path: Path, status: int
) -> None:
    first, second = servers
    name = first.serve()
    second.serve()
    log_in(tmp_path, first.host, second.host)
    for path, route in list(first.routes.items()):
        first.routes[path] = need_basic(route)
    first.routes["/v2/"] = send(b"")
    for path in blob_paths():
        first.routes[path] = need_basic(redirect(f"{second.url}{path}?signed=1", status))
    workshop.pull(name)
    assert len(second.requests) == 3
    assert second.with_header("Authorization") == []
    assert len(first.with_header("Authorization")) >= 4


def test_21_credentials_are_not_restored_after_a_detour(
    workshop: Workshop, servers: list[Server], tmp_path: Path
) -> None:
    first, second = servers
    name = first.serve()
    log_in(tmp_path, first.host)
    honest = first.routes[LAYER]
    first.routes[MANIFEST] = need_basic(first.routes[MANIFEST])
    first.routes[LAYER] = redirect(f"{second.url}/hop")
    second.routes["/hop"] = redirect(f"{first.url}/back")
    first.routes["/back"] = honest
    workshop.pull(name)
    assert "/back" in [path for _, path, _ in first.requests]
    assert "/back" not in first.with_header("Authorization")
    assert second.with_header("Authorization") == []


@pytest.mark.parametrize("kind", ["bearer", "basic", "manifest"])
def test_21_challenge_from_another_host_is_not_answered(
    workshop: Workshop, servers: list[Server], tmp_path: Path, kind: str
) -> None:
    """CVE-2020-15157: who a layer is redirected to asks for the password of the registry."""
    first, second = servers
    name = first.serve()
    log_in(tmp_path, first.host)
    path = LAYER if kind != "manifest" else MANIFEST
    first.routes[path] = redirect(f"{second.url}/layer")
    challenge = f'Bearer realm="{second.url}/token",service="svc"'
    if kind == "basic":
        challenge = 'Basic realm="x"'
    second.routes["/layer"] = send(b"", status=401, WWW_Authenticate=challenge)
    second.routes["/token"] = send(b'{"token": "good-token"}')
    refused(workshop, name, "access denied")
    assert second.with_header("Authorization") == []
    assert not [path for _, path, _ in second.requests if path.startswith("/token")]
    assert first.with_header("Authorization") == []


def test_21_redirects_are_limited(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    for path in blob_paths():
        server.routes[path] = redirect(path)
    refused(workshop, name, "more than 5 redirects")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("ftp://127.0.0.1/x", "only https"),
        ("file:///etc/passwd", "only https"),
        ("http://metadata.invalid/latest", "without TLS"),
        ("http://192.0.2.1/x", "without TLS"),
        ("http://me:pw@127.0.0.1/x", "password in it"),
        ("http://[", "no URL"),
        ("", "redirects"),
    ],
)
def test_21_dangerous_redirects_are_refused(
    workshop: Workshop, server: Server, target: str, why: str
) -> None:
    name = server.serve()
    for path in blob_paths():
        server.routes[path] = redirect(target)
    refused(workshop, name, why)


def test_21_token_is_scoped_to_the_repository(
    workshop: Workshop, server: Server, tmp_path: Path
) -> None:
    name = server.serve()
    log_in(tmp_path, server.host)
    for path in [MANIFEST, *blob_paths()]:
        server.routes[path] = need_token(f"{server.url}/token", server.routes[path])
    server.routes["/token"] = send(b'{"access_token":"good-token","expires_in":300}')
    workshop.pull(name)
    tokens = [(path, headers) for _, path, headers in server.requests if path.startswith("/token")]
    assert len(tokens) == 1  # once for all requests
    path, headers = tokens[0]
    assert "scope=repository%3Ax%3Apull" in path and "evil" not in path and "service=svc" in path
    assert headers["Authorization"] == f"Basic {SECRET}"


def test_21_identity_token_is_exchanged(workshop: Workshop, server: Server, tmp_path: Path) -> None:
    name = server.serve()
    auths = {server.host: {"identitytoken": "refresh-me"}}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
    server.routes[MANIFEST] = need_token(f"{server.url}/token", server.routes[MANIFEST])
    bodies = []

    def token(handler: Any) -> None:
        bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        send(b'{"token":"good-token"}')(handler)

    server.routes["/token"] = token
    workshop.pull(name)
    assert b"grant_type=refresh_token" in bodies[0] and b"refresh_token=refresh-me" in bodies[0]


@pytest.mark.parametrize(
    "realm",
    [
        "http://evil.invalid/token",
        "http://192.0.2.1/token",
        "ftp://127.0.0.1/",
        "",
        "http://[",
        "x",
    ],
)
def test_21_foreign_realm_without_tls_is_refused(
    workshop: Workshop, server: Server, tmp_path: Path, realm: str
) -> None:
    name = server.serve()
    log_in(tmp_path, server.host)
    server.routes[MANIFEST] = need_token(realm, server.routes[MANIFEST])
    refused(workshop, name, "token server without TLS")


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"token":5}', b'{"token":"a\\nb"}', b"x", b'{"token":"' + b"a" * (2 << 20)],
)
def test_21_bad_tokens_are_refused(workshop: Workshop, server: Server, body: bytes) -> None:
    name = server.serve()
    server.routes[MANIFEST] = need_token(f"{server.url}/token", server.routes[MANIFEST])
    server.routes["/token"] = send(body)
    refused(workshop, name, "token")


def test_21_unknown_login_scheme_is_refused(
    workshop: Workshop, server: Server, tmp_path: Path
) -> None:
    name = server.serve()
    log_in(tmp_path, server.host)
    server.routes[MANIFEST] = send(b"", status=401, WWW_Authenticate="Negotiate")
    refused(workshop, name, "unknown login")
    assert server.with_header("Authorization") == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1, which is its own authority."""
    directory = tmp_path_factory.mktemp("tls")
    path = directory / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    options = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [*command.split(), *options, "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    path.write_bytes(key.read_bytes() + cert.read_bytes())
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    made = Server(context)
    yield made
    made.close()


@pytest.mark.needs("openssl")
def test_21_certificates_are_verified(
    workshop: Workshop, tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tls_server.serve()
    refused(workshop, name, "certificate verify failed")
    assert tls_server.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert workshop.pull(name).id == IMAGE.id


@pytest.mark.needs("openssl")
def test_21_redirect_never_leaves_https(
    workshop: Workshop,
    server: Server,
    tls_server: Server,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    name = tls_server.serve()
    server.serve()
    for path in blob_paths():
        tls_server.routes[path] = redirect(f"{server.url}{path}")
    refused(workshop, name, "redirects away from https")
    assert server.requests == []


# -- 22: answers -----------------------------------------------------------------------------------


SENT: list[int] = []


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", OCI_MANIFEST)
    handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.path == LAYER:  # all of it: what is no tar is refused for that
        handler.wfile.write(IMAGE.blobs[0])
    while len(SENT) < 1 << 10:
        handler.wfile.write(b" " * 65536)
        SENT.append(65536)


def drip(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", OCI_MANIFEST)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def test_22_endless_manifest_is_cut(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    server.routes[MANIFEST] = endless
    SENT.clear()
    refused(workshop, name, "larger than")
    assert sum(SENT) < 16 << 20


def test_22_endless_layer_is_cut(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    server.routes[LAYER] = endless
    SENT.clear()
    refused(workshop, name, f"larger than the {len(IMAGE.blobs[0])} bytes")
    assert sum(SENT) < 16 << 20


def test_22_dripping_response_times_out(
    workshop: Workshop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.serve()
    monkeypatch.setattr(limits, "DOCUMENT_SECONDS", 0.5)
    server.routes[MANIFEST] = drip
    start = time.monotonic()
    refused(workshop, name, "too slow|too long")
    assert time.monotonic() - start < 4


def test_22_slow_layer_times_out(
    workshop: Workshop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.serve()
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(limits, "SLOWEST_BYTES_PER_SECOND", 1 << 30)
    server.routes[LAYER] = drip
    refused(workshop, name, "too slow|too long")


def test_22_silent_server_times_out(
    workshop: Workshop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.serve()
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.2)
    server.routes[MANIFEST] = lambda handler: time.sleep(3)
    refused(workshop, name, "timed out")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (send(IMAGE.blobs[0][:-1]), "instead of"),
        (send(IMAGE.blobs[0] + b"x"), "larger than"),
        (send(IMAGE.blobs[0][:-1] + b"!"), "does not have its digest"),
        (send(b"x" * len(IMAGE.blobs[0])), "does not have its digest"),
        (send(IMAGE.blobs[0], Content_Length=str(1 << 40)), "IncompleteRead|Connection broken"),
        (send(b"", status=404), "not found"),
        (send(b"", status=403), "access denied"),
        (send(b"", status=418), "answers 418"),
        (send(b"", status=206), "answers 206"),
        (send(b"", status=500), "status 500, 3 times"),
        (send(IMAGE.blobs[0], Content_Encoding="gzip"), None),
    ],
)
def test_22_wrong_layers_are_refused(
    workshop: Workshop, server: Server, answer: Callable[[Any], None], why: str | None
) -> None:
    name = server.serve()
    if why == "IncompleteRead|Connection broken":
        answer = lambda handler: (  # noqa: E731
            handler.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n" + IMAGE.blobs[0]
            ),
            setattr(handler, "close_connection", True),
        )[0]
    server.routes[LAYER] = answer
    if why is None:
        assert workshop.pull(name).id == IMAGE.id  # the bytes count, not what is said of them
    elif why == "IncompleteRead|Connection broken":
        # All of the layer came; that more was promised is a lie but no harm, or an error.
        with contextlib.suppress(RlessError):
            workshop.pull(name)
    else:
        refused(workshop, name, why)


def test_22_digest_header_must_match(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    lie = "sha256:" + "0" * 64
    server.routes[MANIFEST] = send(IMAGE.manifest_data, OCI_MANIFEST, Docker_Content_Digest=lie)
    refused(workshop, name, "digest it came with")


def test_22_pull_by_digest_verifies_the_digest(workshop: Workshop, server: Server) -> None:
    other = Image([layer({"f": "other"})])
    server.serve(other)
    server.routes[f"/v2/x/manifests/{IMAGE.digest}"] = send(other.manifest_data, OCI_MANIFEST)
    refused(workshop, f"{server.host}/x@{IMAGE.digest}", "sent something else")


def test_22_moving_tag_never_gives_a_mixture(workshop: Workshop, server: Server) -> None:
    """The index is asked by tag, its child by digest: never a mixture."""
    other = Image([layer({"f": "other"})])
    server.serve(other)
    server.serve(IMAGE)
    data = images.index([IMAGE])

    def once(handler: Any) -> None:
        server.routes[MANIFEST] = send(other.manifest_data, OCI_MANIFEST)
        send(data, OCI_INDEX)(handler)

    server.routes[MANIFEST] = once
    image = workshop.pull(f"{server.host}/x:1")
    assert image.id == IMAGE.id
    asked = [path for _, path, _ in server.requests if "/manifests/" in path]
    assert asked == [MANIFEST, f"/v2/x/manifests/{IMAGE.digest}"]
    # And a child that is not what the index says.
    server.routes[MANIFEST] = send(data, OCI_INDEX)
    server.routes[f"/v2/x/manifests/{IMAGE.digest}"] = send(other.manifest_data, OCI_MANIFEST)
    with pytest.raises(RlessError, match=r"bytes instead of|larger than|not have the digest"):
        workshop.pull(f"{server.host}/x:1")


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (IMAGE.manifest_data, OCI_INDEX, "announced as"),
        (
            json.dumps({"schemaVersion": 2, **IMAGE.manifest, "manifests": []}).encode(),
            OCI_MANIFEST,
            "in one",
        ),
        (b'{"schemaVersion":1,"fsLayers":[]}', "application/json", "schema 1"),
        (b"<html>", "text/html", "not valid JSON"),
        (b"[" * 100_000, OCI_MANIFEST, "nested"),
        (b"", OCI_MANIFEST, "not valid JSON"),
    ],
)
def test_14_15_hostile_documents_are_refused(
    workshop: Workshop, server: Server, data: bytes, kind: str, why: str
) -> None:
    name = server.serve()
    server.routes[MANIFEST] = send(data, kind)
    refused(workshop, name, why)


def test_12_digest_is_never_a_path(workshop: Workshop, server: Server) -> None:
    for digest in ("sha256:../../../../../x", "sha256:" + "A" * 64, "../x", ""):
        image = Image([layer({"f": "x"})])
        image.manifest["layers"][0]["digest"] = digest  # type: ignore[index]
        refused(workshop, server.serve(image), "bad digest")
        image = Image([layer({"f": "x"})])
        image.manifest["config"]["digest"] = digest  # type: ignore[index]
        refused(workshop, server.serve(image), "bad digest")
    image = Image([layer({"f": "x"})], document={"rootfs": {"diff_ids": ["sha256:../../x"]}})
    refused(workshop, server.serve(image), "bad diff_id")


def test_19_urls_of_layers_are_never_fetched(workshop: Workshop, servers: list[Server]) -> None:
    first, second = servers
    image = Image([layer({"f": "x"})])
    image.manifest["layers"][0]["urls"] = [f"{second.url}/layer"]  # type: ignore[index]
    name = first.serve(image)
    del first.routes[f"/v2/x/blobs/{images.digest(image.blobs[0])}"]
    refused(workshop, name, "not found")
    assert second.requests == []


def test_errors_of_the_registry_are_escaped(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    body = {"errors": [{"code": "X", "message": "evil \x1b[2J\n" + "y" * 5000}]}
    server.routes[MANIFEST] = send(json.dumps(body).encode(), status=404)
    error = refused(workshop, name, r"evil \\x1b\[2J")
    assert len(error.message) < 400


# -- trouble that is nobody's ill will -------------------------------------------------------------


def test_interrupted_layer_is_resumed(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    data = IMAGE.blobs[0]
    cuts = [30_000, 70_000]

    def cut(handler: Any) -> None:
        asked = handler.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        end = cuts.pop(0) if cuts else len(data)
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start:end])
        handler.close_connection = True

    server.routes[LAYER] = cut
    assert workshop.pull(name).id == IMAGE.id
    ranges = [headers.get("Range") for _, path, headers in server.requests if path == LAYER]
    assert ranges == [None, "bytes=30000-", "bytes=70000-"]


def test_server_without_ranges_restarts_the_layer(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    data = IMAGE.blobs[0]
    lengths = [1000, len(data)]

    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: lengths.pop(0)])
        handler.close_connection = True

    server.routes[LAYER] = cut
    assert workshop.pull(name).id == IMAGE.id


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_server_is_retried(workshop: Workshop, server: Server, status: int) -> None:
    name = server.serve()
    honest = server.routes[MANIFEST]
    answers = [send(b"", status=status, Retry_After="0"), send(b"", status=status)]

    def busy(handler: Any) -> None:
        (answers.pop() if answers else honest)(handler)

    server.routes[MANIFEST] = busy
    assert workshop.pull(name).id == IMAGE.id


def test_long_retry_after_is_not_waited_for(workshop: Workshop, server: Server) -> None:
    name = server.serve()
    server.routes[MANIFEST] = send(b"", status=429, Retry_After="3600")
    start = time.monotonic()
    refused(workshop, name, "status 429; try again later")
    assert time.monotonic() - start < 2


def test_missing_space_is_reported_before_the_download(
    workshop: Workshop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image([layer({"f": "x"})])
    image.manifest["layers"][0]["size"] = limits.BLOB_BYTES  # type: ignore[index]
    monkeypatch.setattr("rootless.image.registry.client._free", lambda directory: 1 << 20)
    refused(workshop, server.serve(image), "no room for 65536 MiB")
    assert not [path for _, path, _ in server.requests if images.digest(image.blobs[0]) in path]
