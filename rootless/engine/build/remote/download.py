"""A URL, over HTTP: fetched into a file, or found to be as it was.

What a server has said of a URL (ETag, Last-Modified) is kept with the digest of what it gave. The
next build asks whether that still holds, and knows the content by its digest without fetching it.

Redirects, retries and proxies are those of `image.registry.http`.

Source: RFC 9110, sections 8.8.2, 13.1 and 15.4.5.
"""

from __future__ import annotations

import hashlib
import os
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from rootless.engine.build.new_layer import MADE
from rootless.engine.build.remote import credentials
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.registry import http
from rootless.image.store import hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rootless.image.registry.connections import Response

    Tell = Callable[[int, int], object]

ALGORITHMS = ("sha256", "sha384", "sha512")
_LATEST = 1 << 36  # seconds since 1970
_SETTLED = 2  # seconds


class Answer(NamedTuple):
    """What a URL has given.

    Attributes:
        digest: of its bytes, "sha256:…".
        path: of the file that has them; "": they are as they were, and nothing was fetched.
    """

    digest: str
    path: str


class Memory:
    """What servers have said of URLs.

    Args:
        root: of the store.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, url: str) -> dict[str, str]:
        """Return {digest, etag, modified} of a URL, {} if it is not known."""
        found = hints.find(self._root, "url", url)
        kept = ("digest", "etag", "modified")
        if not all(isinstance(found.get(key), str) for key in kept):
            return {}
        return {key: found[key] for key in kept}

    def note(self, url: str, response: Response, digest: str) -> None:
        """Keep what was said; where that fails, the next build fetches it again."""
        etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
        if etag or _is_settled(response):
            said = {"digest": digest, "etag": etag, "modified": modified}
            hints.note(self._root, "url", url, said)


def fetch(
    url: str,
    path: str,
    secrets: Mapping[str, bytes],
    *,
    memory: Memory | None = None,
    asks: bool = False,
    checksum: str = "",
    tell: Tell = lambda done, total: None,
) -> Answer:
    """Fetch a URL into a new file, 0600, with the time of Last-Modified.

    Args:
        secrets: of --secret; see `credentials`.
        memory: is told what the server says.
        asks: ask the server first whether it has what the memory knows.
        checksum: what it must have, "ALGORITHM:DIGITS"; checked before the file is given out.
        tell: gets how many bytes have come, and of how many (0: nobody knows).

    Raises:
        RlessError: it cannot be had, is too large, or is something else.
    """
    bare, authorization = credentials.for_url(url, secrets)
    known = memory.find(url) if memory and asks else {}
    headers = {"Authorization": authorization} if authorization else {}
    if known.get("etag"):
        headers["If-None-Match"] = known["etag"]
    if known.get("modified"):
        headers["If-Modified-Since"] = known["modified"]
    what = http.shown(bare)
    deadline = time.monotonic() + limits.transfer_seconds(limits.GIB)
    client = http.Client(plain=True)
    try:
        response = client.get(bare, headers, deadline=deadline)
        if known and response.status == 304:
            http.finish(response)
            return Answer(known["digest"], "")
        if not 200 <= response.status < 300:
            response.close()
            raise RlessError(f"{what}: the server answers {response.status}", _hint(response), 1)
        digest = _store(response, path, what, checksum, tell)
        if memory:
            memory.note(url, response, digest)
        return Answer(digest, path)
    except RlessError as error:
        error.exit_code = 1
        raise
    finally:
        client.close()


def parse_checksum(text: str) -> tuple[str, str]:
    """Return algorithm and digits of `sha256:…`.

    Raises:
        RlessError: it is none that is known.
    """
    algorithm, _, digits = text.partition(":")
    known = algorithm in ALGORITHMS
    length = hashlib.new(algorithm).digest_size * 2 if known else 0
    if not known or len(digits) != length or set(digits) - set("0123456789abcdef"):
        raise RlessError(
            f"--checksum={escape(text)[:200]}: this is no digest of a file",
            "write sha256: and 64 hexadecimal digits",
            1,
        )
    return algorithm, digits


def _hint(response: Response) -> str | None:
    if response.status in (401, 403):
        return "a secret HTTP_AUTH_TOKEN_host is sent as a token, HTTP_AUTH_HEADER_host as it is"
    return None


def _store(response: Response, path: str, what: str, checksum: str, tell: Tell) -> str:
    length = response.headers.get("Content-Length")
    total = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0
    whole = hashlib.sha256()
    wanted, digits = parse_checksum(checksum) if checksum else ("sha256", "")
    checked = whole if wanted == "sha256" else hashlib.new(wanted)
    deadline = time.monotonic() + limits.transfer_seconds(max(total, limits.GIB))
    done = 0
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            _check_room(fd, total, what)
            for chunk in http.stream_body(response, deadline, what):
                done += len(chunk)
                _check_room(-1, done, what)
                whole.update(chunk)
                if checked is not whole:
                    checked.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                tell(done, total)
            modified = _modified(response)
            os.utime(fd, ns=(modified, modified))
    except OSError as error:
        response.close()
        raise RlessError(
            f"cannot store {what}: {error.strerror}", limits.hint(error.errno), 1
        ) from error
    if digits and checked.hexdigest() != digits:
        os.unlink(path)
        raise RlessError(f"{what} has the checksum {wanted}:{checked.hexdigest()}, "
                         f"not {escape(checksum)}", None, 1)  # fmt: skip
    return f"sha256:{whole.hexdigest()}"


def _check_room(fd: int, size: int, what: str) -> None:
    """Refuse what is too large, or does not fit.

    Args:
        fd: of a file where it is to lie; -1: that was looked at.
    """
    if size > limits.BLOB_BYTES:
        raise RlessError(f"{what} is larger than {limits.BLOB_BYTES} bytes", None, 1)
    if fd >= 0:
        room = os.fstatvfs(fd)
        if size > room.f_bavail * room.f_frsize:
            raise RlessError(f"{what}: there is no room for {size} bytes", limits.NO_ROOM, 1)


def _modified(response: Response) -> int:
    """Return the time of Last-Modified in nanoseconds since 1970, or a fixed one."""
    seconds = _seconds(response, "Last-Modified")
    return MADE if seconds is None else seconds * 1_000_000_000


def _is_settled(response: Response) -> bool:
    """Tell whether Last-Modified would show the next change: it counts in seconds only."""
    modified, now = _seconds(response, "Last-Modified"), _seconds(response, "Date")
    return modified is not None and now is not None and now - modified >= _SETTLED


def _seconds(response: Response, name: str) -> int | None:
    """Return the date in a header, in seconds since 1970; None: there is none."""
    try:
        seconds = int(parsedate_to_datetime(response.headers.get(name)).timestamp())
    except (ValueError, OverflowError, TypeError):
        return None
    return seconds if 0 <= seconds < _LATEST else None
