"""What is sent to a server to be let in: secrets of --secret, by the name of the host.

    HTTP_AUTH_HEADER_host    the value of Authorization      for URLs
    HTTP_AUTH_TOKEN_host     a bearer token
    GIT_AUTH_HEADER[.host]   the value of Authorization      for git over http
    GIT_AUTH_TOKEN[.host]    the password of x-access-token

Those for git without a host are for that of the repository that was named, not of its submodules.

`host` is as in the URL, with or without its port. Where a URL has a user and a password, these are
sent instead. No secret goes to another host without TLS, or to whoever is redirected to (security
class 60).

Source: Docker, "Build secrets"; BuildKit source/http, source/git.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from rootless.errors import RlessError, escape
from rootless.image.model.netloc import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def for_url(url: str, secrets: Mapping[str, bytes]) -> tuple[str, str]:
    """Return a URL without user and password, and the value of Authorization, "" for none.

    Raises:
        RlessError: a secret cannot be sent there.
    """
    return _find(url, secrets, "HTTP_AUTH_HEADER_{}", "HTTP_AUTH_TOKEN_{}", _bearer)


def for_git(url: str, secrets: Mapping[str, bytes], *, general: bool = True) -> tuple[str, str]:
    """Return the same for a git repository over http.

    Args:
        general: a secret that names no host is for it, too.

    Raises:
        RlessError: a secret cannot be sent there.
    """
    bare, found = _find(url, secrets, "GIT_AUTH_HEADER.{}", "GIT_AUTH_TOKEN.{}", _token)
    if not found and general:
        return _find(url, secrets, "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN", _token)
    return bare, found


def without(url: str) -> str:
    """Return the URL of a repository without user and password, where it is one of http."""
    return _find(url, {}, "", "", _token)[0] if url.startswith(("http://", "https://")) else url


def _bearer(token: str) -> str:
    return f"Bearer {token}"


def _token(token: str) -> str:
    return _basic("x-access-token", token)


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _find(
    url: str, secrets: Mapping[str, bytes], header: str, token: str, form: Callable[[str], str]
) -> tuple[str, str]:
    parts = urlsplit(url)
    _, at, netloc = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, netloc, *parts[2:]))
    if at:
        return bare, _basic(unquote(parts.username or ""), unquote(parts.password or ""))
    for host in (netloc.lower(), parts.hostname or ""):
        for name, shape in ((header.format(host), str), (token.format(host), form)):
            if name not in secrets:
                continue
            value = secrets[name].decode("utf-8", "replace").strip()
            if not value.isprintable() or not value.isascii():
                raise RlessError(f"--secret id={escape(name)}: no header can have this value", None, 1)
            if parts.scheme != "https" and not is_loopback(netloc):
                raise RlessError(
                    f"--secret id={escape(name)} is not sent to {escape(netloc)} without TLS",
                    "use an https URL",
                    1,
                )
            return bare, shape(value)
    return bare, ""
