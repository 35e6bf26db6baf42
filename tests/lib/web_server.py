"""A web server of a test: what it answers is a dictionary, and what it was asked is a list.

with WebServer() as server:
    server.pages["/file"] = Page(b"text", {"ETag": '"1"'})
    ... server.url("/file") ...
    assert [asked.path for asked in server.asked] == ["/file"]
"""

from __future__ import annotations

import http.server
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType


@dataclass
class Page:
    """An answer; with an ETag, one who has it already is told so (304)."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]


class WebServer:
    """Serves `pages` by path on a port of 127.0.0.1; with a certificate and its key, by TLS."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self._scheme = "https" if tls else "http"
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def url(self, path: str) -> str:
        """Return the URL of a page."""
        return f"{self._scheme}://{self.host}{path}"

    def redirect(self, path: str, target: str) -> None:
        """Have a page redirect."""
        self.pages[path] = Page(headers={"Location": target}, status=302)

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        pages, asked = self.pages, self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                asked.append(Asked(self.path, dict(self.headers.items())))
                page = pages.get(self.path.partition("?")[0], Page(b"none\n", status=404))
                status, body = page.status, page.body
                tag = page.headers.get("ETag")
                if tag and self.headers.get("If-None-Match") == tag:
                    status, body = 304, b""
                self.send_response(status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
