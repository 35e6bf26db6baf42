"""Requests and answers, the limits of both, and which status an error has.

h11 parses; what it would forgive is refused before it sees it: two lengths, bare line feeds, lines
that go on, spaces before colons (security class 75).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_to_bytes

from rootless import __version__
from rootless.errors import (
    CONFLICT,
    FORBIDDEN,
    INVALID,
    NOT_BUILT,
    NOT_FOUND,
    UNAUTHORIZED,
    UNCHANGED,
    RlessError,
)

if TYPE_CHECKING:
    from rootless.service.connection import Connection

API_VERSION, MINIMUM_VERSION = (1, 45), (1, 24)
HEAD_MOST = 256 << 10  # bytes: X-Registry-Config holds the credentials of all registries
QUERY_MOST = 64 << 10
JSON_MOST = 4 << 20
DEPTH_MOST = 100

_STATUS = {
    NOT_FOUND: 404,
    CONFLICT: 409,
    INVALID: 400,
    UNCHANGED: 304,
    FORBIDDEN: 403,
    NOT_BUILT: 501,
    UNAUTHORIZED: 401,
}


class HttpError(Exception):
    """Refuse a request with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def version_text(version: tuple[int, int]) -> str:
    """Return "1.45"."""
    return ".".join(map(str, version))


def status_of(error: RlessError) -> int:
    """Return the status of an error of the engine, by its kind."""
    if error.kind:
        return _STATUS[error.kind]
    # What cannot be executed is the client's mistake, as for Docker.
    return 400 if error.exit_code in (126, 127) else 500


@dataclass
class Response:
    """An answer that is known as a whole; `body` is bytes, or a value for JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> tuple[bytes, str]:
        """Return the body and its type."""
        if isinstance(self.body, bytes):
            return self.body, "text/plain; charset=utf-8"
        return json.dumps(self.body).encode() + b"\n", "application/json"


def refusal(status: int, message: str) -> Response:
    """Return the answer of an error."""
    if message.startswith("no such "):
        message = f"N{message[1:]}"  # scripts look for Docker's words
    return Response({"message": message}, status)


@dataclass
class Request:
    """One request.

    Attributes:
        path: as it came, without the version. version: what the client speaks.
        names: the parts of the path that the route names, decoded.
        body: all of it, unless the route reads it as a stream.
        headers: by their names in lower case; of several the last.
    """

    method: str
    path: str
    version: tuple[int, int]
    query: dict[str, list[str]]
    headers: dict[str, str]
    connection: Connection
    names: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def text(self, name: str, default: str = "") -> str:
        """Return a value of the query: of several the first, as Docker reads it."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean of the query, as Docker reads it."""
        if name not in self.query:
            return default
        return self.text(name).lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str) -> int | None:
        """Return a number of the query; None: it is not there.

        Raises:
            HttpError: it is no number.
        """
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise HttpError(400, f"{name}: {text!r} is not a number") from None

    def json(self) -> dict[str, Any]:
        """Return the body, an object of JSON; {} if there is none.

        Raises:
            HttpError: it is something else.
        """
        data = self.body
        if not data.strip():
            return {}
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(400, "the body's Content-Type is not application/json")
        value = decode_json(data)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise HttpError(400, "the body is not an object of JSON")
        return value


def decode_json(data: bytes | str, what: str = "the body") -> Any:
    """Return a value of a limited depth.

    Raises:
        HttpError: it is no JSON, or too deep; the message says what it is.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise HttpError(400, f"{what} is not JSON") from None
    _check_depth(value)
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(DEPTH_MOST):
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        if not inner:
            return
        level = inner
    raise HttpError(400, f"the JSON is more than {DEPTH_MOST} levels deep")


# -- heads -----------------------------------------------------------------------------------------


def check_head(head: bytes) -> None:
    """Refuse what parsers read differently: a request hidden in another one.

    Raises:
        HttpError: there is such a line.
    """
    if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n"):
        raise HttpError(400, "a line of the head does not end in CR LF")
    lengths = chunked = 0
    for line in head.split(b"\r\n")[1:]:
        name = line.partition(b":")[0]
        if line[:1] in (b" ", b"\t") or name != name.strip():
            raise HttpError(400, "a header has white space where none may be")
        lengths += name.lower() == b"content-length"
        chunked += name.lower() == b"transfer-encoding"
    if lengths > 1 or chunked > 1 or (lengths and chunked):
        raise HttpError(400, "the length of the body is given twice")


def check_origin(headers: dict[str, str]) -> None:
    """Refuse a browser: no page may speak for the user (security class 74).

    Raises:
        HttpError: a browser sends such headers.
    """
    if any(name == "origin" or name.startswith("sec-fetch-") for name in headers):
        raise HttpError(403, "requests of browsers are refused")


def split_target(target: bytes) -> tuple[str, tuple[int, int], dict[str, list[str]]]:
    """Return the path without its version, the version and the query.

    Raises:
        HttpError: it is too long, no text, or of a version that is not spoken.
    """
    raw, _, query = target.partition(b"?")
    if len(query) > QUERY_MOST or len(raw) > QUERY_MOST:
        raise HttpError(414, "the request's target is too long")
    if raw.startswith(b"http://"):  # of a client that takes us for a proxy
        raw = b"/" + raw.split(b"/", 3)[-1]
    path, version = raw.decode("latin-1"), API_VERSION
    if path.startswith("/v") and path[2:3].isdigit():
        number, slash, rest = path[2:].partition("/")
        major, dot, minor = number.partition(".")
        if major.isdigit() and (minor.isdigit() or not dot) and slash:
            version, path = (int(major), int(minor or 0)), "/" + rest
    if version > API_VERSION:
        raise HttpError(
            400,
            f"client version {version_text(version)} is too new. "
            f"Maximum supported API version is {version_text(API_VERSION)}",
        )
    if version < MINIMUM_VERSION:
        raise HttpError(
            400,
            f"client version {version_text(version)} is too old. "
            f"Minimum supported API version is {version_text(MINIMUM_VERSION)}",
        )
    try:
        values = parse_qs(query.decode(), keep_blank_values=True, errors="strict")
    except (UnicodeError, ValueError):
        raise HttpError(400, "the query is not text") from None
    return path, version, values


def decode_name(text: str) -> str:
    """Return a part of a path, decoded once.

    Raises:
        HttpError: it is no text, or has a NUL.
    """
    try:
        name = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise HttpError(400, "the path is not text") from None
    if "\0" in name:
        raise HttpError(400, "the path has a NUL")
    return name


def usual_headers() -> list[tuple[str, str]]:
    """Return the headers that every answer has."""
    return [
        ("Api-Version", version_text(API_VERSION)),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", f"rless/{__version__} (linux)"),
    ]
