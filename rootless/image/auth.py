"""Which credentials the user has for a registry: the files of containers and of Docker, read only.

Looked into in this order: $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json,
~/.config/containers/auth.json, $DOCKER_CONFIG/config.json or ~/.docker/config.json. The first
that has an entry for the registry, or for the longest prefix of the repository, wins.

Source: containers-auth.json(5); docker login reference.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat

from rootless import log
from rootless.errors import RlessError
from rootless.image import limits
from rootless.image.manifest import read_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DOCKER_HUB = (
    "docker.io",
    "index.docker.io",
    "https://index.docker.io/v1/",
    "registry-1.docker.io",
)


class Credentials:
    """Hold a name and password, or a token that stands for both; never shown."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str, password: str, identity_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def basic(self) -> str:
        """Return the value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def __repr__(self) -> str:
        return "Credentials(…)"


def auth_files() -> list[str]:
    """Return the files that may exist, most specific first."""
    home = os.path.expanduser("~")
    files = []
    explicit = os.environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        files.append(explicit)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        files.append(f"{runtime}/containers/auth.json")
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files.append(f"{config}/containers/auth.json")
    docker = os.environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    files.append(f"{docker}/config.json")
    return files


def find(registry: str, repository: str) -> Credentials | None:
    """Return the credentials for a repository, None to go without.

    Raises:
        RlessError: a file is there and broken.
    """
    names = _names(registry, repository)
    for path in auth_files():
        document = _read(path)
        if document is None:
            continue
        auths = document.get("auths")
        if not isinstance(auths, dict):
            auths = {}
        for name in names:
            for spelling in (name, f"https://{name}", f"https://{name}/v1/", f"https://{name}/v2/"):
                if spelling in auths:
                    found = _decode(auths[spelling], path)
                    if found is not None:
                        return found
        helpers = document.get("credHelpers")
        if document.get("credsStore") or (isinstance(helpers, dict) and registry in helpers):
            log.debug(f"{path} names a credential helper, which is not asked yet")
    return None


def _names(registry: str, repository: str) -> list[str]:
    """Return the keys that fit, the longest first."""
    parts = repository.split("/")
    names = [f"{registry}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    names.append(registry)
    if registry == "docker.io":
        names += [name for name in _DOCKER_HUB if name not in names]
    return names


def _read(path: str) -> dict[str, Any] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limits.AUTH_BYTES + 1)
    if len(data) > limits.AUTH_BYTES:
        raise RlessError(f"{path} is too large for a file of credentials")
    return read_object(data, path) if data.strip() else None


def _decode(entry: object, path: str) -> Credentials | None:
    """Read one entry; an empty one means that a helper has the secret."""
    if not isinstance(entry, dict):
        raise RlessError(f"{path}: an entry of auths is not an object")
    token = entry.get("identitytoken")
    username, password = entry.get("username", ""), entry.get("password", "")
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            # Docker pads its entries with NULs in places.
            pair = base64.b64decode(auth, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            raise RlessError(f"{path}: an entry of auths is not base64") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise RlessError(f"{path}: an entry of auths has no password")
    if not isinstance(username, str) or not isinstance(password, str):
        raise RlessError(f"{path}: an entry of auths is not made of strings")
    if not username and not token:
        return None
    return Credentials(username, password, token if isinstance(token, str) else "")
