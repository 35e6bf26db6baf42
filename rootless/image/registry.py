"""Images from a registry: OCI distribution 1.1 and Docker v2, pull side.

Whatever a tag gives is pinned by digest at once; everything after it is asked by digest and
verified while it arrives, so a tag that moves meanwhile or a mirror that lies changes nothing.
A blob is written under a temporary name, hashed as it streams, cut off at the size that its
descriptor says, and resumed where a connection broke.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from urllib.parse import urlencode, urlsplit

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image import auth, http, limits, manifest
from rootless.image.digest import chain_ids, is_digest, sha256
from rootless.image.http import Client, TransferError, read_body, stream_body
from rootless.image.layers import LayerBlob
from rootless.image.source import Found
from rootless.oci import image_spec as spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from urllib3.response import BaseHTTPResponse

    from rootless.image.platforms import PlatformWish
    from rootless.image.progress import Progress
    from rootless.image.reference import Reference
    from rootless.oci.image_spec import Descriptor

_ACCEPT = ", ".join((*spec.INDEXES, *spec.MANIFESTS, *spec.SCHEMA_1))
_DOWNLOADS = limits.CONCURRENT_DOWNLOADS
_HUB = "registry-1.docker.io"


class Registry:
    """Pull one repository of one registry."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        host = _HUB if reference.registry == "docker.io" else reference.registry
        self._host = host
        self._client = Client(http.insecure_registries())
        self._base = f"https://{host}/v2/{reference.repository}"
        self._what = escape(reference.familiar)
        self._authorization = ""
        self._login = threading.Lock()
        self._fetched: list[int] = []

    def close(self) -> None:
        """Close all connections and fetched layers."""
        self._client.close()
        for fd in self._fetched:
            os.close(fd)
        self._fetched = []

    def _choose_scheme(self) -> None:
        """Leave TLS out for a server that may be, and is, spoken to without it.

        A TLS server answers a plain request with status 400 or with a closed connection.
        Nothing secret is sent to find out.
        """
        if not self._client.is_plain(self._host):
            return
        deadline = time.monotonic() + limits.CONNECT_SECONDS
        try:
            response = self._client.get(
                f"http://{self._host}/v2/", {}, deadline=deadline, attempts=1
            )
        except TransferError as error:
            log.debug(f"{error.message}; trying TLS")
            return
        if response.status != 400:
            self._base = f"http://{self._host}/v2/{self._reference.repository}"
        response.close()

    # -- documents ---------------------------------------------------------------------------

    def find(self, wish: PlatformWish) -> Found:
        """Return the image's documents for one platform."""
        self._choose_scheme()
        reference = self._reference
        wanted = reference.digest or reference.tag or "latest"
        data, declared = self._manifest(wanted, limits.JSON_BYTES)
        top = sha256(data)
        if reference.digest and top != reference.digest:
            raise manifest.ManifestError(f"{self._what}: the registry sent something else: {top}")

        def fetch(descriptor: Descriptor, what: str) -> bytes:
            child, kind = self._manifest(descriptor["digest"], descriptor["size"])
            manifest.verify(child, descriptor, what)
            if kind in (*spec.INDEXES, *spec.MANIFESTS) and kind != descriptor["mediaType"]:
                raise manifest.ManifestError(
                    f"{what} is sent as {kind}, but was announced as "
                    f"{escape(descriptor['mediaType'])[:100]}"
                )
            return child

        data, content = manifest.resolve(data, declared, wish, fetch, self._what)
        what = f"{self._what}: image config"
        config_data = self._config(content["config"], what)
        config = manifest.parse_config(config_data, what, len(content["layers"]))
        manifest.check_platform(config, wish, self._what)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = [
            LayerBlob(descriptor["digest"], descriptor["size"], diff_id, chain)
            for descriptor, diff_id, chain in zip(
                content["layers"], diff_ids, chain_ids(diff_ids), strict=True
            )
        ]
        return Found(
            manifest=data,
            digests=list(dict.fromkeys([top, sha256(data)])),
            config_data=config_data,
            config=config,
            image_id=content["config"]["digest"],
            layers=layers,
        )

    def _manifest(self, wanted: str, most: int) -> tuple[bytes, str]:
        """Return a manifest's bytes and Content-Type."""
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        response = self._ask(f"{self._base}/manifests/{wanted}", {"Accept": _ACCEPT}, deadline)
        self._judge(response, f"manifest {wanted}")
        data = read_body(response, most, deadline, f"{self._what}: manifest")
        named = response.headers.get("Docker-Content-Digest", "")
        if is_digest(named) and named != sha256(data):
            raise TransferError(f"{self._what}: the manifest does not have the digest it came with")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return data, kind

    def _config(self, descriptor: Descriptor, what: str) -> bytes:
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        response = self._ask(f"{self._base}/blobs/{descriptor['digest']}", {}, deadline)
        self._judge(response, "image config")
        return manifest.verify(
            read_body(response, descriptor["size"], deadline, what), descriptor, what
        )

    def _judge(self, response: BaseHTTPResponse, what: str) -> None:
        """Raise what a status other than success means."""
        status = response.status
        if status == 200:
            return
        detail = _error_text(response)
        response.close()
        where = self._reference.registry
        if status in (401, 403):
            raise RlessError(
                f"{self._what}: access denied by {where}{detail}",
                "the name may be wrong, or it is private: log in with a tool that writes "
                "~/.docker/config.json or ~/.config/containers/auth.json",
            )
        if status == 404:
            raise RlessError(f"{self._what}: {where} has no such image ({what} not found{detail})")
        raise TransferError(f"{self._what}: {where} answers {status} for {what}{detail}")

    # -- credentials -------------------------------------------------------------------------

    def _ask(self, url: str, headers: dict[str, str], deadline: float) -> BaseHTTPResponse:
        """Send a request; log in once if the registry asks for it."""
        used = self._authorization
        response = self._client.get(url, self._headers(headers), deadline=deadline)
        if response.status != 401:
            return response
        challenge = response.headers.get("WWW-Authenticate", "")
        response.close()
        with self._login:
            # Several threads meet an expired token at once; the first renews it for all.
            if self._authorization == used:
                self._authorization = self._answer(challenge, deadline)
        return self._client.get(url, self._headers(headers), deadline=deadline)

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        if not self._authorization:
            return headers
        return {**headers, "Authorization": self._authorization}

    def _answer(self, challenge: str, deadline: float) -> str:
        """Return the Authorization header that a challenge asks for."""
        scheme, parameters = parse_challenge(challenge)
        credentials = auth.find(self._reference.registry, self._reference.repository)
        if scheme == "basic":
            if credentials is None or not credentials.username:
                raise RlessError(
                    f"{self._what}: {self._reference.registry} wants a name and password",
                    "log in with a tool that writes ~/.docker/config.json",
                )
            return credentials.basic()
        if scheme != "bearer":
            raise RlessError(f"{self._what}: {self._reference.registry} asks for an unknown login")
        realm = parameters.get("realm", "")
        self._check_realm(realm)
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        if parameters.get("service"):
            query["service"] = parameters["service"]
        log.debug(f"asking {escape(urlsplit(realm).netloc)} for a token")
        headers: dict[str, str] = {}
        body = None
        if credentials is not None and credentials.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "rless", **query}
            form["refresh_token"] = credentials.identity_token
            body = urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._client.get(realm, headers, deadline=deadline, method="POST", body=body)
        else:
            if credentials is not None:
                headers["Authorization"] = credentials.basic()
            separator = "&" if "?" in realm else "?"
            response = self._client.get(
                f"{realm}{separator}{urlencode(query)}", headers, deadline=deadline
            )
        self._judge(response, "token")
        what = f"{self._what}: token"
        document = manifest.read_object(
            read_body(response, limits.TOKEN_BYTES, deadline, what), what
        )
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RlessError(f"{self._what}: the token server sent no token")
        return f"Bearer {token}"

    def _check_realm(self, realm: str) -> None:
        """Refuse a token server that the password must not go to: no https, another host."""
        try:
            parts = urlsplit(realm)
            mine = urlsplit(self._base)
            same = parts.scheme == mine.scheme and parts.hostname == mine.hostname
        except ValueError:
            same = False
            parts = urlsplit("")
        if parts.scheme != "https" and not same:
            raise RlessError(
                f"{self._what}: the registry names a token server without TLS: refused"
            )

    # -- layers ------------------------------------------------------------------------------

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Download layers, several at once, each verified, into unnamed files."""
        unique: dict[str, list[LayerBlob]] = {}
        for layer in layers:
            unique.setdefault(layer.digest or "", []).append(layer)
        _check_room(scratch, sum(group[0].size for group in unique.values()))
        for group in unique.values():
            progress.state(group[0].short, "Waiting", group[0].size)
        stop = threading.Event()
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            futures = [
                pool.submit(self._download, group, scratch, progress, stop)
                for group in unique.values()
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
            finally:
                stop.set()
                for future in futures:
                    future.cancel()
            for future in futures:
                future.result()

    def _download(
        self, group: list[LayerBlob], scratch: str, progress: Progress, stop: threading.Event
    ) -> None:
        """Download one blob for all layers that are made of it."""
        layer = group[0]
        progress.state(layer.short, "Downloading", layer.size)
        fd = os.open(f"{scratch}/{layer.short}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._fetched.append(fd)
        os.unlink(f"{scratch}/{layer.short}")
        self._receive(layer, fd, progress, stop)
        for one in group:
            one.fd = fd
        progress.state(layer.short, "Download complete", layer.size)

    def _receive(
        self, layer: LayerBlob, fd: int, progress: Progress, stop: threading.Event
    ) -> None:
        what = f"{self._what}: layer {layer.short}"
        url = f"{self._base}/blobs/{layer.digest}"
        deadline = (
            time.monotonic()
            + 2 * limits.IDLE_SECONDS
            + layer.size / limits.SLOWEST_BYTES_PER_SECOND
        )
        hasher = hashlib.sha256()
        done = attempt = 0
        while True:
            headers = {"Range": f"bytes={done}-"} if done else {}
            response = self._ask(url, headers, deadline)
            if done and response.status == 200:
                # It does not know ranges: all over again.
                hasher, done = hashlib.sha256(), 0
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
            elif not (done and _continues(response, done)):
                self._judge(response, f"layer {layer.short}")
            try:
                for chunk in stream_body(response, deadline, what):
                    done += len(chunk)
                    if done > layer.size:
                        response.close()
                        raise RlessError(
                            f"{what} is larger than the {layer.size} bytes it should be"
                        )
                    hasher.update(chunk)
                    _write(fd, chunk, what)
                    progress.advance(layer.short, done)
                    if stop.is_set():
                        raise RlessError(f"{what}: given up")
            except TransferError as error:
                attempt += 1
                if attempt >= limits.ATTEMPTS or time.monotonic() > deadline:
                    raise
                log.debug(f"{error.message}; going on from byte {done}")
                continue
            if done == layer.size:
                break
            attempt += 1
            if attempt >= limits.ATTEMPTS:
                raise RlessError(f"{what} has {done} bytes instead of {layer.size}")
        if f"sha256:{hasher.hexdigest()}" != layer.digest:
            raise RlessError(f"{what} does not have its digest", "the registry is damaged or lies")


def _continues(response: BaseHTTPResponse, start: int) -> bool:
    """Tell whether a partial answer goes on where the last one ended."""
    given = response.headers.get("Content-Range", "")
    return response.status == 206 and given.startswith(f"bytes {start}-")


def _write(fd: int, data: bytes, what: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise RlessError(
            f"{what} cannot be stored: {error.strerror}",
            limits.NO_ROOM,
        ) from error


def _check_room(directory: str, size: int) -> None:
    free = _free(directory)
    if size > free:
        raise RlessError(
            f"no room for {size >> 20} MiB of layers: {free >> 20} MiB are free",
            limits.NO_ROOM,
        )


def _free(directory: str) -> int:
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


def _error_text(response: BaseHTTPResponse) -> str:
    """Return what the registry itself says about a failure, made safe to show."""
    try:
        data = read_body(response, 64 << 10, time.monotonic() + 5, "error")
        errors = manifest.read_object(data, "error").get("errors")
        first = errors[0] if isinstance(errors, list) and errors else None
        text = first.get("message") or first.get("code") if isinstance(first, dict) else ""
        return f": {escape(text)[:120]}" if isinstance(text, str) and text else ""
    except RlessError:
        return ""


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """Split a WWW-Authenticate header into its scheme, in lower case, and parameters.

    Source: RFC 9110, section 11.6.1; one challenge is read.
    """
    scheme, _, rest = header.strip().partition(" ")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        equals = rest.find("=", position)
        if equals < 0:
            break
        key = rest[position:equals].strip(" ,").lower()
        position = equals + 1
        if rest[position : position + 1] == '"':
            value = ""
            position += 1
            while position < len(rest) and rest[position] != '"':
                position += rest[position] == "\\"
                value += rest[position : position + 1]
                position += 1
            position += 1
        else:
            end = rest.find(",", position)
            end = len(rest) if end < 0 else end
            value = rest[position:end].strip()
            position = end
        parameters[key] = value
    return scheme.lower(), parameters
