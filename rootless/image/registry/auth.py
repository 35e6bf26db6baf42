"""The user's credentials for a registry: the files of containers and of Docker.

The files are read in this order: $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json,
~/.config/containers/auth.json, $DOCKER_CONFIG/config.json or ~/.docker/config.json. The first that
has an entry for the registry, or for the longest prefix of the repository, is used. A file may also
name a program that keeps the secrets (credHelpers, credsStore), which is asked first.

Other tools share these files, so `save` and `forget` change one entry, keep the rest, and replace
the content by one rename.

Source: containers-auth.json(5); docker login reference.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import stat

from rootless import log
from rootless.errors import RlessError
from rootless.image.config.manifest import read_object
from rootless.image.model import limits
from rootless.image.registry.credentials import Credentials
from rootless.linux import files
from rootless.linux.locks import Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls it in its files
_DOCKER_HUB = (
    "docker.io",
    "index.docker.io",
    "https://index.docker.io/v1/",
    "registry-1.docker.io",
)


_given: dict[str, Credentials] = {}


def give(registry: str, credentials: Credentials) -> None:
    """Use credentials for a registry in this process, whatever the files have."""
    _given[registry] = credentials


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
    if registry in _given:
        return _given[registry]
    names = _names(registry, repository)
    for path in auth_files():
        document = _read(path)
        if document is None:
            continue
        found = _ask_helper(document, registry) or _look_up(document, names, path)
        if found is not None:
            return found
    return None


def _ask_helper(document: dict[str, Any], registry: str) -> Credentials | None:
    from rootless.image.registry import credential_helper

    helper = credential_helper.of_document(document, registry)
    if helper is None:
        return None
    try:
        for server in server_names(registry):
            found = credential_helper.get(helper, server)
            if found is not None:
                return found
    except RlessError as error:
        # Most images need no password: what fails for want of one says so itself.
        log.warn(f"{error}; going on without")
    return None


def server_names(registry: str) -> list[str]:
    """Return what helpers know a registry by."""
    return [_HUB_KEY, _HUB] if registry == _HUB else [registry, f"https://{registry}"]


def _look_up(document: dict[str, Any], names: list[str], path: str) -> Credentials | None:
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    for name in names:
        for spelling in _spellings(name):
            found = (
                decode(auths[spelling], f"{path}: an entry of auths") if spelling in auths else None
            )
            if found is not None:
                _warn_of_readers(path)
                return found
    return None


def _spellings(name: str) -> list[str]:
    """Return the keys that tools have written for a name, the plain one first."""
    ends = ("", "/", "/v1/", "/v2/", "/v1", "/v2")
    return [f"{scheme}{name}{end}" for scheme in ("", "https://", "http://") for end in ends]


_WARNED: set[str] = set()


def _warn_of_readers(path: str) -> None:
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if mode & (stat.S_IRGRP | stat.S_IROTH) and path not in _WARNED:
            _WARNED.add(path)
            log.warn(f"{path}, with your passwords, can be read by others: chmod 600 {path}")


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


def decode(entry: object, what: str) -> Credentials | None:
    """Return the credentials of an entry; None: it has none, as where a helper has the secret.

    Args:
        what: how messages name it.

    Raises:
        RlessError: it is not right.
    """
    if not isinstance(entry, dict):
        raise RlessError(f"{what} is not an object")
    token = entry.get("identitytoken")
    username, password = entry.get("username", ""), entry.get("password", "")
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            # Docker pads its entries with NULs in places.
            pair = base64.b64decode(auth, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            raise RlessError(f"{what} is not base64") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise RlessError(f"{what} has no password")
    if not isinstance(username, str) or not isinstance(password, str):
        raise RlessError(f"{what} is not made of strings")
    if not username and not password and not token:
        return None
    return Credentials(username, password, token if isinstance(token, str) else "")


# -- writing ---------------------------------------------------------------------------------


def save(registry: str, credentials: Credentials) -> str:
    """Keep a name and password: by the user's helper, or else in a file.

    The file is $REGISTRY_AUTH_FILE, or the one in $XDG_RUNTIME_DIR if that has an entry of the
    registry (it would hide another), or else ~/.config/containers/auth.json, which lasts.

    Returns:
        Where they are: "docker-credential-NAME" or the path.
    """
    from rootless.image.registry import credential_helper

    for path in auth_files():
        helper = credential_helper.of_document(_read(path) or {}, registry)
        if helper is not None:
            credential_helper.store(helper, server_names(registry)[0], credentials)
            return f"docker-credential-{helper}"
    path = _writable_file(registry)
    pair = f"{credentials.username}:{credentials.password}".encode()

    def change(document: dict[str, Any]) -> bool:
        auths = document.setdefault("auths", {})
        if not isinstance(auths, dict):
            raise RlessError(f"{path}: auths is not an object")
        auths[registry] = {"auth": base64.b64encode(pair).decode("ascii")}
        return True

    _update(path, change)
    return path


def _writable_file(registry: str) -> str:
    files = auth_files()
    explicit = os.environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        return explicit
    candidates = files[:-1]
    for path in candidates:
        document = _read(path)
        if document is not None and _keys_of(document, registry):
            return path
    return candidates[-1]


def _keys_of(document: dict[str, Any], registry: str) -> list[str]:
    """Return the keys by which a file has an entry of a registry as a whole."""
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return []
    names = _DOCKER_HUB if registry == _HUB else (registry,)
    return [key for name in names for key in _spellings(name) if key in auths]


def forget(registry: str | None) -> list[str]:
    """Take the credentials of a registry, or all, out of the files and the helpers.

    Returns:
        Where there were any.
    """
    from rootless.image.registry import credential_helper

    gone = []
    for path in auth_files():
        document = _read(path)
        if document is None:
            continue
        for helper, servers in _kept_by_helpers(document, registry):
            for server in servers:
                credential_helper.erase(helper, server)
            if servers:
                gone.append(f"docker-credential-{helper}")

        def change(document: dict[str, Any]) -> bool:
            auths = document.get("auths")
            if not isinstance(auths, dict):
                return False
            keys = list(auths) if registry is None else _keys_of(document, registry)
            for key in keys:
                del auths[key]
            return bool(keys)

        if change(document) and _update(path, change):
            gone.append(path)
    return gone


def _kept_by_helpers(
    document: dict[str, Any], registry: str | None
) -> Iterator[tuple[str, list[str]]]:
    """Yield the helpers that a file names, with the servers of which each has something."""
    from rootless.image.registry import credential_helper

    if registry is not None:
        helper = credential_helper.of_document(document, registry)
        if helper is not None:
            names = server_names(registry)
            yield helper, [name for name in names if credential_helper.get(helper, name)]
        return
    general = document.get("credsStore")
    special = document.get("credHelpers")
    named = [general] if isinstance(general, str) and general else []
    if isinstance(special, dict):
        named += [one for one in special.values() if isinstance(one, str)]
    for helper in dict.fromkeys(named):
        yield helper, credential_helper.servers(helper)


def _update(path: str, change: Callable[[dict[str, Any]], bool]) -> bool:
    """Change a file of credentials; it is there as a whole at any moment, for nobody else to read.

    Args:
        change: alters the document and tells whether it did.

    Raises:
        RlessError: it cannot be written, or is another user's.
    """
    path = os.path.realpath(path)  # a link of the user's own, to a directory of settings
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        with Locked(directory):  # two log-ins at once lose none
            if os.path.exists(path) and os.stat(path).st_uid != os.getuid():
                raise RlessError(f"{path} belongs to another user: refused")
            document = _read(path) or {}
            if not change(document):
                return False
            files.write(path, json.dumps(document, indent="\t").encode() + b"\n", durable=True)
    except OSError as error:
        raise RlessError(f"cannot write {path}: {error.strerror}") from error
    return True
