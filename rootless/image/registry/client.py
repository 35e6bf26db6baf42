"""Images from a registry: OCI distribution 1.1 and Docker v2, pull side.

A tag is pinned to a digest at once. Everything after that is requested by digest and verified while
it arrives, so a tag that moves meanwhile or a mirror that lies changes nothing. A blob is written
under a temporary name, hashed as it streams, cut off at the size in its descriptor, and resumed
where a connection broke. If registries.conf names mirrors, they are asked first, and what one of
them does not have is requested from the next.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from urllib.parse import urljoin

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits, registries_conf
from rootless.image.model.digest import chain_ids, is_digest, sha256
from rootless.image.model.source import Found, TransferError
from rootless.image.registry import http
from rootless.image.registry.endpoint import AbsentError, Endpoint
from rootless.image.registry.http import Client, read_body, stream_body
from rootless.oci import image_spec as spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from rootless.image.layer.layers import LayerBlob
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.model.reference import Reference
    from rootless.image.registry.connections import Response
    from rootless.image.registry.progress import Progress
    from rootless.oci.image_spec import Descriptor, Manifest

_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


class Registry:
    """Pulls one repository, from its registry or a mirror."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._client = Client(http.insecure_registries())
        self._what = escape(reference.familiar)
        # Those that are left to ask, the best first.
        self._endpoints = [
            Endpoint(self._client, location, self._what)
            for location in registries_conf.load().locations(reference)
        ]
        self._has_resumed = False

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @property
    def endpoint(self) -> Endpoint:
        """Return the place that is asked now; after `find`, the one that has the image."""
        return self._endpoints[0]

    # -- documents ---------------------------------------------------------------------------

    def has_image(self) -> bool:
        """Tell whether the registry has the image, and gives it to this user."""
        wanted = self._reference.digest or self._reference.tag or "latest"
        last = self._endpoints[-1]
        for endpoint in self._endpoints:
            try:
                self._manifest(endpoint, wanted, limits.JSON_BYTES)
            except AbsentError:
                continue
            except RlessError:
                if endpoint is last:
                    raise
                continue
            return True
        return False

    def current_digest(self) -> str:
        """Return the digest that the name has now, by one request without a body; "": untold.

        Whatever is no clean answer of the place that is asked first (another status, no digest,
        a slow or broken connection) tells nothing: `find` meets it again, and says what it means.

        Source: OCI distribution-spec, "Checking if content exists in the registry". Docker Hub
        does not count it as a pull.
        """
        wanted = self._reference.digest or self._reference.tag or "latest"
        endpoint = self._endpoints[0]
        deadline = time.monotonic() + limits.CURRENT_SECONDS
        headers = {"Accept": spec.ACCEPT}
        try:
            url = endpoint.url(f"manifests/{wanted}")
            response = endpoint.ask(url, headers, deadline, method="HEAD", attempts=1)
        except RlessError as error:
            log.debug(f"{error.message}; whether the image is current is not known")
            return ""
        response.release()
        named = response.headers.get("Docker-Content-Digest", "").strip()
        return named if response.status == 200 and is_digest(named) else ""

    def describe(self) -> tuple[Descriptor, list[dict[str, Any]]]:
        """Return the descriptor of what the name means now, and the platforms that it is for.

        Source: Docker's API, DistributionInspect.
        """
        wanted = self._reference.digest or self._reference.tag or "latest"
        endpoint = self._endpoints[0]
        data, declared = self._manifest(endpoint, wanted, limits.JSON_BYTES)
        document = manifest.read_object(data, self._what)
        kind = manifest.media_type(document, declared, self._what)
        found: Descriptor = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
        if kind in spec.INDEXES:
            children = manifest.parse_index(document, self._what)["manifests"]
            return found, [dict(child.get("platform") or {}) for child in children]
        blob = manifest.parse_manifest(document, self._what)["config"]
        url = endpoint.url(f"blobs/{blob['digest']}")
        what = f"{self._what}: image config"
        config = manifest.verify(endpoint.read(url, {}, blob["size"], "config"), blob, what)
        value = manifest.read_object(config, what)
        return found, [{key: value[key] for key in _PLATFORM if value.get(key)}]

    def has_tags(self) -> bool:
        """Tell whether the registry has the repository, and shows it to this user."""
        try:
            return bool(self.tags())
        except AbsentError:
            return False

    def tags(self) -> list[str]:
        """Return all tags of the repository, page by page."""
        endpoint = self._endpoints[-1]
        found: list[str] = []
        for page in pages(endpoint, endpoint.url("tags/list?n=1000"), f"{self._what}: tags"):
            tags = page.get("tags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise manifest.ManifestError(f"{self._what}: the list of tags is malformed")
            found += tags
        return found

    def find(self, asked: PlatformRequest, kinds: Sequence[str] = manifest.IMAGES) -> Found:
        """Return the image's documents for one platform.

        Args:
            kinds: media types of configs that are taken.
        """
        while True:
            endpoint = self._endpoints[0]
            try:
                return self._find(endpoint, asked, kinds)
            except RlessError as error:
                if len(self._endpoints) == 1:
                    raise
                log.debug(f"{error.message}; {endpoint.name} is left out")
                del self._endpoints[0]

    def _find(self, endpoint: Endpoint, asked: PlatformRequest, kinds: Sequence[str]) -> Found:
        from rootless.image.layer.layers import LayerBlob  # not for what is there

        digests, data, content = self._resolve(endpoint, asked, kinds)
        what = f"{self._what}: image config"
        config_data = manifest.verify(
            endpoint.read(
                endpoint.url(f"blobs/{content['config']['digest']}"),
                {},
                content["config"]["size"],
                "image config",
            ),
            content["config"],
            what,
        )
        config = manifest.parse_config(config_data, what, len(content["layers"]))
        manifest.check_platform(config, asked, self._what)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = [
            LayerBlob(descriptor["digest"], descriptor["size"], diff_id, chain)
            for descriptor, diff_id, chain in zip(
                content["layers"], diff_ids, chain_ids(diff_ids), strict=True
            )
        ]
        return Found(
            manifest=data,
            digests=digests,
            config_data=config_data,
            config=config,
            image_id=content["config"]["digest"],
            layers=layers,
        )

    def _resolve(
        self, endpoint: Endpoint, asked: PlatformRequest, kinds: Sequence[str]
    ) -> tuple[list[str], bytes, Manifest]:
        """Return the digests of what the name means now, its manifest, and what that says."""
        reference = self._reference
        wanted = reference.digest or reference.tag or "latest"
        data, declared = self._manifest(endpoint, wanted, limits.JSON_BYTES)
        top = sha256(data)
        if reference.digest and top != reference.digest:
            raise manifest.ManifestError(f"{self._what}: the registry sent something else: {top}")

        def fetch(descriptor: Descriptor, what: str) -> bytes:
            child, kind = self._manifest(endpoint, descriptor["digest"], descriptor["size"])
            manifest.verify(child, descriptor, what)
            if kind in (*spec.INDEXES, *spec.MANIFESTS) and kind != descriptor["mediaType"]:
                raise manifest.ManifestError(
                    f"{what} is sent as {kind}, but was announced as "
                    f"{escape(descriptor['mediaType'])[:100]}"
                )
            return child

        data, content = manifest.resolve(data, declared, asked, fetch, self._what, kinds)
        return list(dict.fromkeys([top, sha256(data)])), data, content

    def _manifest(self, endpoint: Endpoint, wanted: str, most: int) -> tuple[bytes, str]:
        """Return a manifest's bytes and Content-Type."""
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        response = endpoint.ask(
            endpoint.url(f"manifests/{wanted}"), {"Accept": spec.ACCEPT}, deadline
        )
        endpoint.judge(response, f"manifest {wanted}")
        data = read_body(response, most, deadline, f"{self._what}: manifest")
        named = response.headers.get("Docker-Content-Digest", "")
        if is_digest(named) and named != sha256(data):
            raise TransferError(f"{self._what}: the manifest does not have the digest it came with")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return data, kind

    # -- layers ------------------------------------------------------------------------------

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Download layers, several at once, each verified."""
        from rootless.image.registry.parallel import at_once  # 10 ms, not for what is there

        unique: dict[str, list[LayerBlob]] = {}
        for layer in layers:
            unique.setdefault(layer.digest or "", []).append(layer)
        _check_room(
            scratch,
            sum(max(0, group[0].size - _there(group[0].fd)) for group in unique.values()),
        )
        for group in unique.values():
            progress.state(group[0].short, "Pulling fs layer", group[0].size)
        stop = threading.Event()
        rows = [(group, progress, stop) for group in unique.values()]
        at_once(self._download, rows, limits.CONCURRENT_DOWNLOADS, stop)

    def may_restart(self) -> bool:
        """Tell whether what did come may have to come once more.

        A place can send something else than the one that is asked after it; and what an earlier
        pull left may be damaged.
        """
        return len(self._endpoints) > 1 or self._has_resumed

    def _download(self, group: list[LayerBlob], progress: Progress, stop: threading.Event) -> None:
        """Download one blob for all layers that are made of it."""
        layer = group[0]
        what = f"{self._what}: layer {layer.short}"
        progress.state(layer.short, "Downloading", layer.size)

        arrivals = [one.arrival for one in group if one.arrival is not None]

        def check() -> None:
            if stop.is_set() or any(arrival.given_up for arrival in arrivals):
                raise RlessError(f"{what}: given up")

        def advance(done: int) -> None:
            progress.advance(layer.short, done)
            for arrival in arrivals:
                arrival.note(done)

        self._has_resumed |= _there(layer.fd) > 0
        transfer = _Transfer(layer, what, check, advance)
        transfer.take_up()
        for endpoint in self._endpoints:
            try:
                transfer.run(endpoint)
                break
            except RlessError as error:
                if endpoint is self._endpoints[-1] or stop.is_set():
                    raise
                log.debug(f"{error.message}; asking the next place")
        progress.state(layer.short, "Download complete", layer.size)


class _Transfer:
    """Receives one blob into a file, with as many requests and from as many places as it takes.

    Args:
        check: raises once the transfer is not wanted any more; the file is not touched then.
        advance: called with the number of bytes that have arrived.
    """

    def __init__(
        self,
        layer: LayerBlob,
        what: str,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ) -> None:
        self._layer = layer
        self._fd = layer.fd
        self._what = what
        self._check = check
        self._advance = advance
        self._hasher = hashlib.sha256()
        self._done = 0
        self._taken_up = 0

    def take_up(self) -> None:
        """Go on with what an earlier pull has left in the file."""
        if _there(self._fd) > self._layer.size:
            self._restart()
        os.lseek(self._fd, 0, os.SEEK_SET)
        while chunk := os.read(self._fd, limits.CHUNK):
            self._check()
            self._hasher.update(chunk)
            self._done += len(chunk)
            self._advance(self._done)
        self._taken_up = self._done
        if self._done:
            log.debug(f"{self._what}: {self._done} bytes are here from an earlier pull")

    def _restart(self) -> None:
        self._check()
        self._hasher = hashlib.sha256()
        self._done = self._taken_up = 0
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def run(self, endpoint: Endpoint) -> None:
        """Receive what is missing from one place.

        Raises:
            RlessError: it has not all of it, or something else; what did come stays unless it
                is wrong.
        """
        layer, what = self._layer, self._what
        url = endpoint.url(f"blobs/{layer.digest}")
        deadline = time.monotonic() + limits.transfer_seconds(layer.size)
        attempt, mark = 0, self._done
        while self._done < layer.size:
            self._check()
            done = self._done
            headers = {"Range": f"bytes={done}-"} if done else {}
            response = endpoint.ask(url, headers, deadline)
            if done and response.status == 200:
                self._restart()  # it does not know ranges: all over again
            elif not (done and _continues(response, done)):
                endpoint.judge(response, f"layer {layer.short}")
            failure: RlessError | None = None
            try:
                self._receive(response, deadline)
            except TransferError as error:
                failure = error
            if self._done == layer.size:
                break
            failure = failure or TransferError(
                f"{what} has {self._done} bytes instead of {layer.size}"
            )
            # A line that breaks often is slow, not broken: only attempts in vain are counted.
            attempt = 0 if self._done - mark >= limits.PROGRESS_BYTES else attempt + 1
            if attempt == 0:
                mark = self._done
            if attempt >= limits.ATTEMPTS or time.monotonic() > deadline:
                raise failure
            log.debug(f"{failure.message}; going on from byte {self._done}")
        if f"sha256:{self._hasher.hexdigest()}" != layer.digest:
            is_ours = self._taken_up > 0
            self._restart()
            if is_ours:
                log.debug(f"{what}: what an earlier pull left is damaged; all over again")
                self.run(endpoint)
                return
            raise RlessError(f"{what} does not have its digest", "the registry is damaged or lies")

    def _receive(self, response: Response, deadline: float) -> None:
        try:
            for chunk in stream_body(response, deadline, self._what):
                self._check()
                if self._done + len(chunk) > self._layer.size:
                    self._restart()
                    raise RlessError(
                        f"{self._what} is larger than the {self._layer.size} bytes it should be"
                    )
                self._done += len(chunk)
                self._hasher.update(chunk)
                _write(self._fd, chunk, self._what)
                self._advance(self._done)
        except BaseException:
            response.close()  # or the server would go on sending
            raise


def resolve(
    reference: Reference,
    say: Callable[[str], None],
    has_it: Callable[[Registry], bool] = Registry.has_image,
) -> Reference:
    """Return what a short name means: of the registries that it may be in, the first that has it.

    One that cannot be reached ends the search: what another has under the name may be
    something else.

    Args:
        say: gets a line if there was a choice.
        has_it: asks one registry; `Registry.has_tags` where no tag is meant.

    Raises:
        RlessError: none has it, or one cannot be asked.
    """
    candidates = registries_conf.load().candidates(reference)
    if len(candidates) == 1:
        return candidates[0]
    for candidate in candidates:
        registry = Registry(candidate)
        try:
            if has_it(registry):
                say(
                    f"{reference.short} is {candidate.canonical}, of the registries that were asked"
                )
                return candidate
        finally:
            registry.close()
    places = ", ".join(candidate.registry for candidate in candidates)
    raise RlessError(
        f"{escape(reference.familiar)}: none of {places} has such an image",
        "registries.conf lists them as unqualified-search-registries",
    )


def pages(endpoint: Endpoint, url: str, what: str) -> Iterator[dict[str, object]]:
    """Yield the JSON objects of a list that comes in pages, as the Link header chains them.

    Source: OCI distribution-spec, "Content Discovery"; RFC 8288.
    """
    for _ in range(limits.PAGES):
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        response = endpoint.ask(url, {}, deadline)
        endpoint.judge(response, "the list")
        data = read_body(response, limits.JSON_BYTES, deadline, what)
        yield manifest.read_object(data, what)
        following = next_page(response.headers.get("Link", ""))
        if not following:
            return
        try:
            url = urljoin(url, following)
        except ValueError:
            raise TransferError(f"{what}: the next page has no valid address") from None
        if not url.startswith(f"{endpoint.origin}/"):
            raise TransferError(f"{what}: the next page is at another server: refused")
    raise TransferError(f"{what}: more than {limits.PAGES} pages")


def next_page(header: str) -> str:
    """Return the target of rel="next" in a Link header, "" if there is none."""
    target, mark, parameters = header.strip().partition(">")
    if not (mark and target.startswith("<")) or "next" not in parameters:
        return ""
    return target[1:]


def _continues(response: Response, start: int) -> bool:
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
            limits.hint(error.errno),
        ) from error


def _there(fd: int) -> int:
    return os.fstat(fd).st_size


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
