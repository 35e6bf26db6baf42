"""Requests about one repository at one place: scheme, authentication, the meaning of answers.

A registry answers a first request with a challenge. For "Basic" the registry gets the user's
password. For "Bearer" the password goes to the token server that the challenge names, and the
registry gets a token which is good for this repository and these actions only. Tokens are kept for
the rest of the process, by registry and scope.

Source: OCI distribution-spec 1.1; distribution's "Token Authentication Specification" and
"OAuth2 Token Authentication"; RFC 9110, section 11.
"""

from __future__ import annotations

import threading
import time
from urllib.parse import urlencode, urlsplit

from rootless import log
from rootless.errors import FORBIDDEN, NOT_FOUND, UNAUTHORIZED, RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits
from rootless.image.model.netloc import is_loopback
from rootless.image.model.source import TransferError
from rootless.image.registry.http import read_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.model.registries_conf import Location
    from rootless.image.registry.connections import Response
    from rootless.image.registry.credentials import Credentials
    from rootless.image.registry.http import Body, Client

HUB = "registry-1.docker.io"
_TOKENS: dict[tuple[str, ...], tuple[str, float]] = {}
_TOKEN_SECONDS = 60.0  # what a token is good for if its server does not say


class AbsentError(RlessError):
    """The registry does not have something, or does not give it to this user.

    Attributes:
        detail: ": " and what the registry itself says, if it says something.
    """

    detail = ""


class Endpoint:
    """Sends requests about one repository; usable from several threads.

    Args:
        location: where it is.
        what: how errors name it.
        actions: what a token must allow: "pull" or "pull,push"; "catalog" for the list of
            repositories, "" for none of them.
        credentials: to use in place of those in the user's files.
    """

    def __init__(
        self,
        client: Client,
        location: Location,
        what: str,
        actions: str = "pull",
        credentials: Credentials | None = None,
    ) -> None:
        self.location = location
        self.name = location.host
        self._client = client
        self._host = HUB if location.host == "docker.io" else location.host
        if location.insecure:
            client.trust(self._host)
        self._what = what
        self._origin = ""
        self._scopes = [f"repository:{location.repository}:{actions}"] if actions else []
        if actions == "catalog":
            self._scopes = ["registry:catalog:*"]
        self._credentials = credentials
        self._authorization = ""
        self._lock = threading.Lock()

    def allow(self, repository: str) -> None:
        """Ask for the right to read a second repository too, from which blobs are mounted."""
        scope = f"repository:{repository}:pull"
        with self._lock:
            if scope not in self._scopes:
                self._scopes.append(scope)
                self._authorization = ""

    # -- where -------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """Return "https://HOST[:PORT]", or "http://…" for a server that may be, and is, plain."""
        with self._lock:
            if not self._origin:
                self._origin = f"{self._choose_scheme()}://{self._host}"
            return self._origin

    def url(self, path: str) -> str:
        """Return the URL of "manifests/…", "blobs/…" or "tags/…" of the repository."""
        return f"{self.origin}/v2/{self.location.repository}/{path}"

    def _choose_scheme(self) -> str:
        """Find out what a server speaks that may be spoken to without TLS; https for all others.

        A TLS server answers a plain request with status 400 or with a closed connection. This
        machine's own servers are mostly plain, others mostly not. Nothing secret is sent.
        """
        if not self._client.is_plain(self._host):
            return "https"
        order = ("http", "https") if is_loopback(self._host) else ("https", "http")
        deadline = time.monotonic() + limits.CONNECT_SECONDS
        for scheme in order:
            try:
                response = self._client.get(
                    f"{scheme}://{self._host}/v2/", {}, deadline=deadline, attempts=1, redirects=0
                )
            except TransferError as error:
                log.debug(f"{error.message}; it may speak otherwise")
                continue
            # A plain server that sends everybody to TLS is not the one to talk to.
            to_tls = response.headers.get("Location", "").startswith("https:")
            response.close()
            if scheme == "https" or not (to_tls or response.status == 400):
                return scheme
        return "https"

    # -- requests ----------------------------------------------------------------------------

    def ask(
        self,
        url: str,
        headers: dict[str, str],
        deadline: float,
        *,
        method: str = "GET",
        body: Body | None = None,
        attempts: int | None = None,
    ) -> Response:
        """Send a request, logging in where the registry asks for it.

        Args:
            url: of the registry; credentials are left out for any other place.
        """

        def send(authorization: str) -> Response:
            more = {"Authorization": authorization} if authorization and mine else {}
            return self._client.get(
                url,
                {**headers, **more},
                deadline=deadline,
                method=method,
                body=body,
                attempts=attempts,
            )

        mine = url.startswith(f"{self.origin}/")
        used = self._authorization or self._remembered()
        response = send(used)
        challenge = response.headers.get("WWW-Authenticate", "")
        if response.status != 401 or not mine or not challenge:
            return response
        response.close()
        with self._lock:
            # Several threads meet an expired token at once; the first renews it for all.
            if self._authorization in ("", used):
                self._authorization = self._answer(challenge, deadline)
        return send(self._authorization)

    def read(self, url: str, headers: dict[str, str], most: int, what: str) -> bytes:
        """Return the body of a successful answer of at most `most` bytes."""
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        response = self.ask(url, headers, deadline)
        self.judge(response, what)
        return read_body(response, most, deadline, f"{self._what}: {what}")

    def judge(self, response: Response, what: str, accepted: Sequence[int] = (200,)) -> None:
        """Raise what a status other than success means."""
        status = response.status
        if status in accepted:
            return
        detail = error_text(response)
        response.close()
        if status in (401, 403):
            absent = AbsentError(
                f"{self._what}: access denied by {self.name}{detail}",
                f"the name may be wrong, or it is private: rless login {self.name}",
                kind=_denied(response),
            )
            absent.detail = detail
            raise absent
        if status == 404:
            raise AbsentError(
                f"{self._what}: {self.name} has no such image ({what} not found{detail})",
                kind=NOT_FOUND,
            )
        kind = TransferError if status >= 500 else RlessError
        raise kind(f"{self._what}: {self.name} answers {status} for {what}{detail}")

    # -- who we are --------------------------------------------------------------------------

    def _remembered(self) -> str:
        token, until = _TOKENS.get((self._origin, *self._scopes), ("", 0.0))
        return token if self._credentials is None and time.monotonic() < until else ""

    def _answer(self, challenge: str, deadline: float) -> str:
        """Return the Authorization header that a challenge asks for."""
        scheme, parameters = parse_challenge(challenge)
        if scheme not in ("basic", "bearer"):
            raise RlessError(f"{self._what}: {self.name} asks for an unknown login")
        from rootless.image.registry import auth  # not for who is asked for nothing

        credentials = self._credentials or auth.find(self.name, self.location.repository)
        if scheme == "basic":
            if credentials is None or not credentials.username:
                raise AbsentError(
                    f"{self._what}: {self.name} wants a name and password",
                    f"log in: rless login {self.name}",
                    kind=UNAUTHORIZED,
                )
            return credentials.basic()
        document = self._ask_token(parameters, credentials, deadline)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RlessError(f"{self._what}: the token server sent no token")
        seconds = document.get("expires_in")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            seconds = _TOKEN_SECONDS
        if self._credentials is None:
            key = (self._origin, *self._scopes)
            until = time.monotonic() + min(seconds, 3600) * 0.9
            _TOKENS[key] = (f"Bearer {token}", until)
        return f"Bearer {token}"

    def _ask_token(
        self, parameters: dict[str, str], credentials: Credentials | None, deadline: float
    ) -> dict[str, object]:
        realm = parameters.get("realm", "")
        self._check_realm(realm)
        query = [("service", parameters["service"])] if parameters.get("service") else []
        log.debug(f"asking {escape(urlsplit(realm).netloc)} for a token")
        headers: dict[str, str] = {}
        if credentials is not None and credentials.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                ("client_id", "rless"),
                *query,
                ("scope", " ".join(self._scopes)),
                ("refresh_token", credentials.identity_token),
            ]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form).encode()
            response = self._client.get(realm, headers, deadline=deadline, method="POST", body=body)
        else:
            if credentials is not None:
                headers["Authorization"] = credentials.basic()
                query.append(("account", credentials.username))
            query += [("scope", scope) for scope in self._scopes]
            separator = "&" if "?" in realm else "?"
            url = f"{realm}{separator}{urlencode(query)}" if query else realm
            response = self._client.get(url, headers, deadline=deadline)
        self.judge(response, "token")
        what = f"{self._what}: token"
        return manifest.read_object(read_body(response, limits.TOKEN_BYTES, deadline, what), what)

    def _check_realm(self, realm: str) -> None:
        """Refuse a token server that the password must not go to: no https, another host."""
        try:
            parts = urlsplit(realm)
            mine = urlsplit(self._origin)
            same = parts.scheme == mine.scheme and parts.hostname == mine.hostname
        except ValueError:
            same = False
            parts = urlsplit("")
        if parts.scheme != "https" and not same:
            raise RlessError(
                f"{self._what}: the registry names a token server without TLS: refused"
            )


def _denied(response: Response) -> str:
    """Return the kind of an error for who is turned away.

    A token that gives too little is what Docker Hub has for repositories that do not exist.
    """
    challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))[1]
    if challenge.get("error") == "insufficient_scope":
        return NOT_FOUND
    return UNAUTHORIZED if response.status == 401 else FORBIDDEN


def error_text(response: Response) -> str:
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
