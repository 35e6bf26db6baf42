"""Confirm by one request that an image of the store is what its name means now.

A repeated pull of what is there needs one answer of the registry: the digest of a manifest. The
client that can do all else takes 60 ms to load, for this one a socket is enough. It knows one
thing only: that the answer is 200 with the digest that the store has. It asks where the last pull
found that the registry gives the image to everybody, and the user has configured nothing that
concerns it. Whatever else it meets (another status, a redirect, a slow or odd answer, a
certificate that it does not trust) tells it nothing, and is left to `image.transfer.pull`. So a
mistake in here can cost a request, but brings no byte into the store.

`_socket` and `_ssl` are the C halves of `socket` and `ssl`, which take 6 and 13 ms. A context for
clients checks certificates and host names unless it is told not to, in the C half already; that is
looked at before it is used. Authorities are looked up one by one in OpenSSL's directory, where
there is one: to read the bundle takes 20 ms.

Source: OCI distribution-spec, "Checking if content exists in the registry".
"""

from __future__ import annotations

import os
import sys
import time

from rootless import log
from rootless.errors import RlessError
from rootless.image.model import limits, registries_conf
from rootless.image.model.digest import is_digest
from rootless.image.model.netloc import is_loopback, split
from rootless.image.model.reference import parse
from rootless.image.registry.certificates import directory_of
from rootless.image.registry.progress import Progress
from rootless.image.store.store import Image, blob_path, layer_dir, name_path, split_path
from rootless.oci.image_spec import ACCEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Store
    from rootless.linux.idmap import IdMap

_ANSWER_BYTES = 16 << 10  # a status line and headers


def confirm(
    name: str,
    store: Store,
    *,
    platform: str | None = None,
    progress: Progress,
    idmap_for: Callable[[Image], IdMap],
) -> Image | None:
    """Return the image of that name if all of it is there and it is current.

    Prints then what a pull prints. None: that is not known, so it is to be pulled.

    Raises:
        RlessError: it is no name.
    """
    reference = parse(name)
    if reference.transport != "docker" or reference.short:
        return None
    record = store.read(name_path(store.root, reference, platform))
    if record is None:
        return None
    image = Image(store.root, record)
    if not image.origin or not image.digests or not _is_whole(image, idmap_for):
        return None
    scheme, _, netloc = image.origin.partition("://")
    if netloc != reference.registry or is_configured(netloc):
        return None
    begin = time.monotonic()
    try:
        digest = _ask(scheme, netloc, reference, begin + limits.CURRENT_SECONDS)
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        log.debug(f"{netloc} does not tell at once whether {reference.familiar} is new: {error}")
        return None
    if digest != (reference.digest or image.digests[0]):
        return None
    progress.say(f"Pulling {reference.familiar}")
    progress.say(f"Digest: {digest}")
    progress.say(f"Status: Image is up to date for {reference.familiar}")
    return image


def _is_whole(image: Image, idmap_for: Callable[[Image], IdMap]) -> bool:
    """Tell whether all that a pull would make is there."""
    try:
        key = idmap_for(image).key
    except RlessError:
        return False
    if key not in image.keys:
        return False
    paths = [blob_path(image.root, digest) for digest in (image.id, image.digest)]
    for chain in image.chain:
        layer = layer_dir(image.root, key, chain)
        paths += (layer, f"{layer}.json", split_path(image.root, chain))
    return all(map(os.path.exists, paths))


def is_configured(netloc: str) -> bool:
    """Tell whether something is set that may say how, or where, this registry is to be asked."""
    environment = os.environ
    if environment.get("RLESS_INSECURE_REGISTRIES"):
        return True
    if not is_loopback(netloc):
        for name, value in environment.items():
            if value and name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
                return True
            if value and name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"):
                return True
    return directory_of(netloc) is not None or not registries_conf.is_about_names_only()


def _ask(scheme: str, netloc: str, reference: Reference, deadline: float) -> str:
    """Return the digest that a registry gives for a name; "" if it answers otherwise.

    Raises:
        OSError: it cannot be reached, is not trusted, or is too slow.
        ValueError: what it says is no HTTP.
    """
    wanted = reference.digest or reference.tag or "latest"
    request = (
        f"HEAD /v2/{reference.repository}/manifests/{wanted} HTTP/1.1\r\nHost: {netloc}\r\n"
        f"User-Agent: rless\r\nAccept: {ACCEPT}\r\nAccept-Encoding: identity\r\n"
        "Connection: close\r\n\r\n"
    )
    host, port = split(netloc, 443 if scheme == "https" else 80)
    line = _connect(host, port, deadline)
    send, receive = line.sendall, line.recv
    try:
        if scheme == "https":
            secured = _secure(line, host, deadline)
            send, receive = secured.write, secured.read
        line.settimeout(_left(deadline))
        send(request.encode("ascii"))
        data = b""
        while b"\r\n\r\n" not in data:
            line.settimeout(_left(deadline))
            more = receive(4096)
            data += more
            if not more or len(data) > _ANSWER_BYTES:
                raise ValueError("no end of the headers")
    finally:
        line.close()
    return parse_answer(data.partition(b"\r\n\r\n")[0])


def parse_answer(data: bytes) -> str:
    """Return the digest in the headers of an answer of success, else ""."""
    status, *lines = data.decode("latin-1").split("\r\n")
    version, _, rest = status.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or rest.partition(" ")[0] != "200":
        return ""
    found = [
        value.strip(" \t")
        for key, _, value in (line.partition(":") for line in lines)
        if key.lower() == "docker-content-digest"
    ]
    return found[0] if len(found) == 1 and is_digest(found[0]) else ""


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


def _connect(host: str, port: int, deadline: float) -> Any:
    import _socket

    class Line(_socket.socket):
        """A socket that TLS can refer to."""

    failure = OSError("it has no address")
    # As bytes: for text a codec is loaded that spells names of other alphabets.
    for kind, style, protocol, _, address in _socket.getaddrinfo(
        host.encode("ascii"), port, 0, _socket.SOCK_STREAM
    ):
        line = Line(kind, style, protocol)
        try:
            line.settimeout(_left(deadline))
            line.connect(address)
        except OSError as error:
            line.close()
            failure = error
        else:
            return line
    raise failure


def _secure(line: Any, host: str, deadline: float) -> Any:
    """Speak TLS over a connection.

    Raises:
        OSError: the certificate is not trusted, or not that of `host`.
    """
    import _ssl

    ssl: Any = _ssl
    context = ssl._SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):  # as ssl.create_default_context
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    directory = ssl.get_default_verify_paths()[3]
    try:
        has_hashes = any(name.endswith(".0") for name in os.listdir(directory))
    except OSError:
        has_hashes = False
    if has_hashes:
        context.load_verify_locations(None, directory, None)
    else:
        context.set_default_verify_paths()
    if not context.check_hostname or context.verify_mode != ssl.CERT_REQUIRED:
        raise OSError("this Python does not check certificates")
    line.settimeout(_left(deadline))
    secured = context._wrap_socket(line, False, host)
    secured.do_handshake()
    return secured
