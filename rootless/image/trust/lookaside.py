"""Signatures beside a registry: on a lookaside server, in a directory, in the registry's extension.

Below the URL that registries.d names, the signatures of a manifest are the files
REPOSITORY@sha256=HEX/signature-1, signature-2, and so on; the first that is not there ends the
list. A registry with the header X-Registry-Supports-Signatures has them itself, and is asked
instead.

Source: containers/image, docs/signature-protocols.md.
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits
from rootless.image.registry.http import Client, finish, insecure_registries, read_body
from rootless.image.trust.signature import RefusedError
from rootless.linux import files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.registry.endpoint import Endpoint
    from rootless.image.trust.identity import Named

SIGNATURE_BYTES = 1 << 20
_HEADER = "X-Registry-Supports-Signatures"


# -- lookaside -------------------------------------------------------------------------------


def read(url: str, named: Named, digest: str) -> list[bytes]:
    """Return the stored signatures of a manifest.

    Args:
        url: that registries.d names: file, https or http.

    Raises:
        RlessError: they cannot be asked for, are too large or too many.
    """
    found: list[bytes] = []
    client = Client(insecure_registries())
    try:
        while True:
            place = _place(url, named, digest, len(found) + 1)
            blob = _read_file(place) if place.startswith("/") else _download(client, place)
            if blob is None:
                return found
            found.append(blob)
            if len(found) > limits.SIGNATURES:
                raise RefusedError(
                    f"{_shown(url)} has more than {limits.SIGNATURES} signatures of one image"
                )
    finally:
        client.close()


def _place(url: str, named: Named, digest: str, number: int) -> str:
    """Return the URL of one signature, or its path if it is a file."""
    parts = urlsplit(url)
    repository = named.name.partition("/")[2]
    rest = f"{repository}@{digest.replace(':', '=')}/signature-{number}"
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return f"{unquote(parts.path).rstrip('/')}/{rest}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RlessError(
            f"registries.d: {_shown(url)} is no place for signatures",
            "write file:///DIRECTORY, https:// or http://",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{quote(rest, safe='/@=')}"


def _read_file(path: str) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            blob = file.read(SIGNATURE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RlessError(f"cannot read {escape(path)}: {error.strerror}") from error
    if len(blob) > SIGNATURE_BYTES:
        raise RefusedError(f"{escape(path)} is larger than {SIGNATURE_BYTES} bytes")
    return blob


def _download(client: Client, url: str) -> bytes | None:
    if url.startswith("http:"):
        client.trust(urlsplit(url).netloc)  # registries.d says so, and signatures are verified
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = client.get(url, {}, deadline=deadline)
    if response.status == 404:
        finish(response)
        return None
    if response.status != 200:
        response.close()
        raise RlessError(f"{_shown(url)}: the server answers {response.status}")
    return read_body(response, SIGNATURE_BYTES, deadline, _shown(url))


def write(url: str, named: Named, digest: str, blobs: Sequence[bytes]) -> str:
    """Write the signatures of a manifest in place of those that are there; return where.

    Raises:
        RlessError: the URL is no directory of this host, or cannot be written to.
    """
    path = _place(url, named, digest, 1)
    if not path.startswith("/"):
        raise RlessError(
            f"signatures cannot be written to {_shown(url)}",
            "registries.d says by lookaside-staging: file:///DIRECTORY where they go",
        )
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for number, blob in enumerate(blobs, 1):
            # Others read them, as a web server.
            files.write(f"{directory}/signature-{number}", blob, mode=0o644)
        number = len(blobs)
        while os.path.lexists(f"{directory}/signature-{(number := number + 1)}"):
            os.unlink(f"{directory}/signature-{number}")
    except OSError as error:
        raise RlessError(f"cannot write to {escape(directory)}: {error.strerror}") from error
    return directory


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return escape(f"{parts.scheme}://{host}{parts.path}")[:200]


# -- the registry's own extension ------------------------------------------------------------


def has_extension(endpoint: Endpoint) -> bool:
    """Tell whether a registry has signatures itself."""
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = endpoint.ask(f"{endpoint.origin}/v2/", {}, deadline)
    said = response.headers.get(_HEADER, "")
    finish(response)
    return said.strip() == "1"


def read_extension(endpoint: Endpoint, digest: str) -> list[bytes]:
    """Return the signatures that a registry has of a manifest.

    Raises:
        RlessError: it does not give them, they are too many or malformed.
    """
    what = f"signatures of {digest[7:19]}"
    data = endpoint.read(_extension_url(endpoint, digest), {}, limits.JSON_BYTES, what)
    entries = manifest.read_object(data, what).get("signatures") or []
    if not isinstance(entries, list) or len(entries) > limits.SIGNATURES:
        raise RefusedError(f"{endpoint.name} has no list of at most {limits.SIGNATURES} signatures")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise RefusedError(f"{endpoint.name}: a signature is malformed")
        if entry.get("version") == 2 and entry.get("type") == "atomic":
            try:
                found.append(base64.b64decode(entry["content"], validate=True))
            except ValueError:
                raise RefusedError(f"{endpoint.name}: a signature is not base64") from None
    return found


def write_extension(endpoint: Endpoint, digest: str, blobs: Sequence[bytes]) -> None:
    """Add signatures of a manifest to those that a registry has.

    Raises:
        RlessError: it does not take them.
    """
    there = read_extension(endpoint, digest)
    for blob in blobs:
        if blob in there:
            continue
        entry = {
            "version": 2,
            # A new name each time: nobody's signature is replaced.
            "name": f"{digest}@{os.urandom(16).hex()}",
            "type": "atomic",
            "content": base64.b64encode(blob).decode(),
        }
        data = json.dumps(entry).encode()
        response = endpoint.ask(
            _extension_url(endpoint, digest),
            {"Content-Type": "application/json", "Content-Length": str(len(data))},
            time.monotonic() + limits.DOCUMENT_SECONDS,
            method="PUT",
            body=data,
        )
        endpoint.judge(response, "signature", (200, 201, 204))
        finish(response)


def _extension_url(endpoint: Endpoint, digest: str) -> str:
    repository = endpoint.location.repository
    return f"{endpoint.origin}/extensions/v2/{repository}/signatures/{digest}"
