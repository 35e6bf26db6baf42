"""HTTP for a registry client: bounded in size and time, retried, and careful with credentials.

Redirects are followed here and not by the library, because they can leak credentials. An
Authorization header goes only to the scheme, host and port it was meant for (CVE-2020-15157), a
redirect never leaves https, and at most five are followed. Bodies are taken as they are on the
wire: a digest is of those bytes, so nothing is decompressed here.
"""

from __future__ import annotations

import os
import threading
import time
from urllib.parse import urljoin, urlsplit

from rootless import log
from rootless.errors import escape
from rootless.image.model import limits
from rootless.image.model.netloc import is_loopback
from rootless.image.model.source import TransferError
from rootless.image.registry import certificates
from rootless.image.registry.connections import Pool, Proxy, RequestError, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    from rootless.image.registry.connections import Response

    # Bytes, or what gives their pieces anew for each attempt.
    Body = bytes | Callable[[], Iterable[bytes]]

_RETRIED = (429, 500, 502, 503, 504)
_REDIRECTED = (301, 302, 303, 307, 308)
_USER_AGENT = "rless"
_NO_URL = "the server redirects to something that is no URL"


class Client:
    """Sends requests over kept-alive connections; usable from several threads.

    Args:
        insecure: "HOST:PORT" of servers whose certificates are not verified, and that may be
            spoken to without TLS.
        plain: any server may be spoken to without TLS, where its URL says so.
    """

    def __init__(self, insecure: frozenset[str] = frozenset(), *, plain: bool = False) -> None:
        self._insecure = set(insecure)
        self._plain = plain
        self._pool = Pool()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self._reached: set[str] = set()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def trust(self, host: str) -> None:
        """Take "HOST:PORT" without a valid certificate, and without TLS."""
        self._insecure.add(host)

    def get(
        self,
        url: str,
        headers: dict[str, str],
        *,
        deadline: float,
        method: str = "GET",
        body: Body | None = None,
        attempts: int | None = None,
        redirects: int | None = None,
    ) -> Response:
        """Return the response to a request, after redirects; its body is still to be read.

        Statuses other than 429 and 5xx are the caller's to judge. Retries with growing
        pauses, or as long as Retry-After says. A server that never answered is given up at
        once: its name may be wrong; one that did is tried again.

        Args:
            deadline: time.monotonic() at which all of it must be over.
            attempts: at most; `limits.ATTEMPTS` by default.
            redirects: how many are followed, `limits.REDIRECTS` by default; 0: a redirect is
                an answer like others.

        Raises:
            TransferError: the server cannot be reached, or keeps failing.
        """
        failure, pause = "", None
        attempts = attempts or limits.ATTEMPTS
        for attempt in range(attempts):
            if attempt:
                log.debug(f"{shown(url)}: {failure}; trying again")
            pause = None
            try:
                response = self._follow(method, url, headers, body, deadline, redirects)
            except RequestError as problem:
                self._give_up(url, problem)
                failure = _reason(problem)
            else:
                self._reached.add(urlsplit(url).netloc)
                if response.status not in _RETRIED:
                    return response
                failure = f"status {response.status}"
                pause = _retry_after(response)
                response.close()
            if attempt + 1 < attempts:
                _sleep(_pause(attempt) if pause is None else pause, deadline, url, failure)
        error = TransferError(f"{shown(url)}: {failure}" + f", {attempts} times" * (attempts > 1))
        error.pause = pause
        raise error

    def _give_up(self, url: str, error: RequestError) -> None:
        """Raise for a failure that another attempt does not mend."""
        if error.step == "tls":
            raise TransferError(
                f"{shown(url)}: {_reason(error)}",
                "the certificate is not trusted here, or the server does not speak TLS; certs.d "
                "has further authorities, insecure = true in registries.conf goes without",
            ) from error
        known = urlsplit(url).netloc in self._reached
        if error.step == "name" or (error.step == "connect" and not known):
            raise TransferError(
                f"{shown(url)}: {_reason(error)}",
                "check the network, the proxy settings and the name of the server",
            ) from error

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body | None,
        deadline: float,
        redirects: int | None,
    ) -> Response:
        origin = self._check(url)
        most = limits.REDIRECTS if redirects is None else redirects
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **headers}
        where = origin
        for _ in range(most + 1):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TransferError(f"{shown(url)}: it took too long")
            proxy = self._proxy(url)
            response = self._pool.send(
                method,
                url,
                headers,
                body() if callable(body) else body,
                context=self._context(url, proxy),
                proxy=proxy,
                connect=min(limits.CONNECT_SECONDS, left),
                read=min(limits.IDLE_SECONDS, left),
            )
            if response.status not in _REDIRECTED or most == 0:
                if where != origin:
                    # Who was redirected to has no claim to the password of who was asked.
                    response.headers.discard("WWW-Authenticate")
                response.url = url
                return response
            target = response.headers.get("Location", "")
            response.close()
            if body is not None and not (callable(body) and response.status in (307, 308)):
                # What is sent as bytes may be secret; a layer is not, and made anew.
                raise TransferError(f"{shown(url)} redirects a request that has a body")
            previous, url = url, _join(url, target)
            where = self._check(url)
            if previous.startswith("https:") and not url.startswith("https:"):
                raise TransferError(f"{shown(previous)} redirects away from https: refused")
            if where != origin:
                headers.pop("Authorization", None)
        raise TransferError(f"{shown(url)}: more than {limits.REDIRECTS} redirects")

    def _check(self, url: str) -> tuple[str, str, int]:
        """Return scheme, host and port of a URL that may be asked."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise TransferError(_NO_URL) from None
        if parts.username is not None or parts.password is not None:
            raise TransferError("the server redirects to a URL with a password in it: refused")
        if parts.scheme not in ("https", "http") or not host:
            raise TransferError(f"{shown(url)}: only https is spoken")
        port = port or (443 if parts.scheme == "https" else 80)
        if parts.scheme == "http" and not self.is_plain(parts.netloc):
            raise TransferError(
                f"{shown(url)}: not spoken to without TLS",
                "insecure = true in registries.conf, or RLESS_INSECURE_REGISTRIES, trusts a host "
                "like that",
            )
        return parts.scheme, host, port

    def is_plain(self, netloc: str) -> bool:
        """Tell whether a host may be spoken to without TLS: named so, or this machine."""
        return self._plain or netloc in self._insecure or is_loopback(netloc)

    def _context(self, url: str, proxy: Proxy | None) -> ssl.SSLContext | None:
        """Return how TLS is spoken on the way to a URL; None: not at all."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (proxy and proxy.tls):
            return None
        directory = certificates.directory_of(parts.netloc)
        verify = parts.netloc not in self._insecure
        name = parts.netloc if directory is not None or not verify else ""
        with self._lock:
            if name not in self._contexts:
                self._contexts[name] = certificates.make_context(directory, verify=verify)
            return self._contexts[name]

    def _proxy(self, url: str) -> Proxy | None:
        parts = urlsplit(url)
        if is_loopback(parts.netloc) or _bypasses_proxy(parts.netloc):
            return None
        address = proxies().get(parts.scheme)
        try:
            return Proxy(address) if address else None
        except ValueError:
            raise TransferError(
                "the proxy of the environment is no http:// or https:// URL", "see HTTPS_PROXY"
            ) from None


def proxies() -> dict[str, str]:
    """Return what the environment says of proxies, by scheme; "no": of none."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    from urllib.request import getproxies  # 10 ms, for those who have one

    return getproxies()


def _bypasses_proxy(netloc: str) -> bool:
    """Tell whether NO_PROXY names a host: by name, domain, address or network of addresses."""
    given = proxies()
    if not given:
        return True
    import ipaddress
    from urllib.request import proxy_bypass

    host = netloc.rpartition("@")[2]
    if proxy_bypass(host):
        return True

    try:
        address = ipaddress.ip_address(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
    for word in given.get("no", "").replace(",", " ").split():
        try:
            if "/" in word and address in ipaddress.ip_network(word, strict=False):
                return True
        except ValueError:
            continue
    return False


def _join(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise TransferError(_NO_URL) from None


def read_body(response: Response, most: int, deadline: float, what: str) -> bytes:
    """Return the body of a response of at most `most` bytes.

    Raises:
        TransferError: it is larger, slower, or breaks off.
    """
    parts = []
    total = 0
    for chunk in stream_body(response, deadline, what):
        total += len(chunk)
        if total > most:
            response.close()
            raise TransferError(f"{what} is larger than {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


def stream_body(response: Response, deadline: float, what: str) -> Iterator[bytes]:
    """Yield the body of a response until `deadline`."""
    try:
        # read1 returns what is there: a slow drip is seen at every packet.
        while chunk := response.read1(limits.CHUNK):
            yield chunk
            if time.monotonic() > deadline:
                response.close()
                raise TransferError(f"{what}: the server is too slow")
    except (RequestError, OSError) as error:
        response.close()
        raise TransferError(f"{what}: {_reason(error)}") from error


def finish(response: Response) -> None:
    """Take away a body that does not matter, so that the connection can be used again."""
    try:
        read_body(response, 64 << 10, time.monotonic() + 5, "answer")
    except TransferError:
        response.close()


def insecure_registries() -> frozenset[str]:
    """Return the hosts of $RLESS_INSECURE_REGISTRIES: "host:port", by comma or space."""
    return frozenset(os.environ.get("RLESS_INSECURE_REGISTRIES", "").replace(",", " ").split())


def _retry_after(response: Response) -> float | None:
    """Return the seconds that a server wants to be left alone (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 8:
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _pause(attempt: int) -> float:
    import random  # only when something fails

    return float(0.5 * 2**attempt * random.uniform(0.75, 1.25))


def _sleep(seconds: float, deadline: float, url: str, failure: str) -> None:
    if seconds > limits.RETRY_AFTER_SECONDS or time.monotonic() + seconds > deadline:
        raise TransferError(f"{shown(url)}: {failure}; try again later")
    time.sleep(seconds)


def shown(url: str) -> str:
    """Return a URL without its query and user part, for messages: these may carry secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return escape(f"{parts.scheme}://{host}{parts.path}")[:200]


def _reason(error: BaseException) -> str:
    """Return why a request failed."""
    return escape(why(error))[:200]
