"""Send one blob to a registry: skip it if it is there, else mount it, else upload it.

A small blob is one request. A large one is a PATCH of all of it; after a cut the registry is asked
how much has arrived, and the next PATCH goes on there. Pieces of a fixed size would need a request
each, and several registries do not accept them. If a registry has forgotten the upload, as
docker-registry does after a cut, it is sent from the start.

Source: OCI distribution-spec 1.1, "Pushing blobs", "Mounting a blob from another repository",
"Resuming an upload"; distribution's "Docker Registry HTTP API V2".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin

from rootless import log
from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import is_digest, sha256
from rootless.image.model.source import TransferError
from rootless.image.registry.http import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rootless.image.registry.connections import Response
    from rootless.image.registry.endpoint import Endpoint

    # Reads `size` bytes of the blob at `offset`.
    ReadAt = Callable[[int, int], bytes]

_PIECE = 64 << 10


class Blob:
    """A blob to be sent.

    Args:
        read_at: returns the bytes; None for a blob of which only the digest is known.
        advance: called with the number of bytes that were sent.
    """

    def __init__(
        self,
        digest: str,
        size: int,
        read_at: ReadAt | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.digest = digest
        self.size = size
        self.read_at = read_at
        self.advance = advance


def exists(endpoint: Endpoint, digest: str) -> bool:
    """Tell whether the repository has a blob."""
    response = _ask(endpoint, "HEAD", endpoint.url(f"blobs/{digest}"))
    endpoint.judge(response, "blob", (200, 404))
    return response.status == 200


def mount(endpoint: Endpoint, digest: str, repository: str) -> bool:
    """Make a blob of another repository of the registry appear in this one; tell if it worked.

    A registry that cannot or may not do so begins an upload, which is cancelled.
    """
    query = urlencode({"mount": digest, "from": repository})
    response = _ask(endpoint, "POST", endpoint.url(f"blobs/uploads/?{query}"))
    if response.status == 202:
        place = _location(endpoint, response, endpoint.url("blobs/uploads/"))
        try:
            _ask(endpoint, "DELETE", place)
        except RlessError:
            log.debug("an upload could not be cancelled: it expires")
    return response.status == 201


def upload(endpoint: Endpoint, blob: Blob, what: str) -> None:
    """Send a blob.

    Raises:
        RlessError: refused, or broken off more often than is worth trying.
    """
    deadline = time.monotonic() + limits.transfer_seconds(blob.size)
    attempt, best = 0, 0
    place, done = "", 0
    while True:
        try:
            if not place:
                place, done = _begin(endpoint, what), 0
            if blob.size <= limits.UPLOAD_WHOLE:
                return _finish(endpoint, place, blob, done, deadline, what)
            while done < blob.size:
                place, done = _send_rest(endpoint, place, blob, done, deadline, what)
                if done > best:
                    best, attempt = done, 0
            return _finish(endpoint, place, blob, done, deadline, what)
        except TransferError as error:
            attempt += 1
            if attempt >= limits.ATTEMPTS or time.monotonic() > deadline:
                raise
            log.debug(f"{error.message}; asking how far it came")
            _wait(attempt, error)
            if exists(endpoint, blob.digest):
                return None  # only the answer was lost
            place, done = _resume(endpoint, place, blob.size)


def put_manifest(endpoint: Endpoint, tag: str, data: bytes, kind: str, what: str) -> None:
    """Send a manifest, once all that it names is there.

    Args:
        kind: its media type.

    Raises:
        RlessError: refused, or the registry has made another one of it.
    """
    digest = sha256(data)
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = endpoint.ask(
        endpoint.url(f"manifests/{tag}"),
        {"Content-Type": kind, "Content-Length": str(len(data))},
        deadline,
        method="PUT",
        body=data,
    )
    endpoint.judge(response, "manifest", (201, 200, 202))
    named = response.headers.get("Docker-Content-Digest", "")
    finish(response)
    if is_digest(named) and named != digest:
        raise RlessError(f"{what}: {endpoint.name} has taken {named} for the manifest {digest}")


def _wait(attempt: int, error: TransferError) -> None:
    pause = 0.1 * 2**attempt if error.pause is None else error.pause
    if pause > limits.RETRY_AFTER_SECONDS:
        raise error
    time.sleep(pause)


def _begin(endpoint: Endpoint, what: str) -> str:
    url = endpoint.url("blobs/uploads/")
    response = _ask(endpoint, "POST", url)
    endpoint.judge(response, what, (202,))
    return _location(endpoint, response, url)


def _resume(endpoint: Endpoint, place: str, size: int) -> tuple[str, int]:
    """Return where an upload goes on and how much of it has arrived; ("", 0): from the start."""
    if not place or size <= limits.UPLOAD_WHOLE:
        return "", 0
    try:
        response = _ask(endpoint, "GET", place)
        if response.status != 204:
            return "", 0
        return _location(endpoint, response, place), _arrived(response, size)
    except RlessError:
        return "", 0


def _send_rest(
    endpoint: Endpoint, place: str, blob: Blob, start: int, deadline: float, what: str
) -> tuple[str, int]:
    """Send what has not arrived yet; return where it ends the upload and how much has arrived."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(blob.size - start),
    }
    if start:
        headers["Content-Range"] = f"{start}-{blob.size - 1}"
    response = endpoint.ask(
        place,
        headers,
        deadline,
        method="PATCH",
        body=lambda: _pieces(blob, start, deadline, what),
        attempts=1,
    )
    if response.status in (404, 416):
        response.close()
        raise TransferError(f"{what}: the registry has lost the upload")
    endpoint.judge(response, what, (202, 201, 204))
    arrived = _arrived(response, blob.size) if response.headers.get("Range") else blob.size
    place = _location(endpoint, response, place)
    finish(response)
    if arrived <= start:
        raise TransferError(f"{what}: the registry did not take it")
    return place, arrived


def _finish(
    endpoint: Endpoint, place: str, blob: Blob, start: int, deadline: float, what: str
) -> None:
    """Send what is left of the blob, if anything, and its digest."""
    url = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': blob.digest})}"
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(blob.size - start),
    }
    response = endpoint.ask(
        url,
        headers,
        deadline,
        method="PUT",
        body=lambda: _pieces(blob, start, deadline, what),
        attempts=1,
    )
    if response.status == 404:
        response.close()
        raise TransferError(f"{what}: the registry has lost the upload")
    endpoint.judge(response, what, (201, 204))
    finish(response)


def _pieces(blob: Blob, start: int, deadline: float, what: str) -> Iterable[bytes]:
    """Yield a blob from an offset on, in small pieces: each has a time limit of its own."""
    assert blob.read_at is not None
    read_at, advance = blob.read_at, blob.advance

    def generate() -> Iterator[bytes]:
        position = start
        while position < blob.size:
            if time.monotonic() > deadline:
                raise TransferError(f"{what}: the registry is too slow")
            data = read_at(position, min(_PIECE, blob.size - position))
            if not data:
                raise RlessError(f"{what} is shorter than it was")
            yield data
            position += len(data)
            advance(position)

    return generate()


def _ask(endpoint: Endpoint, method: str, url: str) -> Response:
    """Send a request without a body."""
    headers = {"Content-Length": "0"} if method == "POST" else {}
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = endpoint.ask(url, headers, deadline, method=method)
    if response.status < 400 or method == "HEAD":
        finish(response)
    return response


def _location(endpoint: Endpoint, response: Response, base: str) -> str:
    """Return where an upload goes on; it may be another server, which gets no credentials."""
    target = response.headers.get("Location", "")
    try:
        place = urljoin(base, target) if target else ""
    except ValueError:
        place = ""
    if not place:
        raise RlessError(f"{endpoint.name} does not say where to upload to")
    if endpoint.origin.startswith("https:") and not place.startswith("https:"):
        raise RlessError(f"{endpoint.name} wants an upload without TLS: refused")
    return place


def _arrived(response: Response, size: int) -> int:
    """Return how many bytes of an upload have arrived, from "Range: 0-LAST"."""
    first, dash, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if not dash or first != "0" or not (last.isascii() and last.isdigit()) or len(last) > 15:
        return 0
    # An empty upload is "0-0" to some: then what is sent again is one byte, or refused.
    arrived = int(last) + 1 if int(last) else 0
    return min(arrived, size)
