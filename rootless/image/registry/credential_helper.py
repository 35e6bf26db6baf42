"""Programs that keep passwords: docker-credential-NAME, asked over standard input.

The name comes from a file of the user, so it is checked before it becomes part of a path. The
program is looked for in the absolute directories of PATH and must not be writable by others. It
gets only the environment that a key chain needs, and must answer within half a minute.

Source: github.com/docker/docker-credential-helpers, "Development": the protocol.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits
from rootless.image.registry.credentials import Credentials
from rootless.linux import programs

_SECONDS = 60.0  # somebody may have to unlock a key chain
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
# What a key chain, a password store or a cloud's helper finds its own secrets by.
_ENVIRONMENT = (
    "HOME USER LOGNAME LANG DISPLAY WAYLAND_DISPLAY XAUTHORITY DBUS_SESSION_BUS_ADDRESS"
    " XDG_RUNTIME_DIR XDG_CONFIG_HOME XDG_DATA_HOME XDG_CACHE_HOME GNUPGHOME GPG_TTY"
    " PASSWORD_STORE_DIR AWS_PROFILE AWS_REGION AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE"
    " CLOUDSDK_CONFIG"
).split()
_TOKEN_USER = "<token>"
_ABSENT = "credentials not found"


def get(helper: str, server: str) -> Credentials | None:
    """Return what a helper has for a server, None if it has nothing."""
    code, out = _call(helper, "get", server.encode())
    if code != 0:
        if _ABSENT in out.decode("utf-8", "replace").lower():
            return None
        raise _failure(helper, "get", out)
    what = f"the answer of docker-credential-{helper}"
    document = manifest.read_object(out, what)
    username, secret = document.get("Username"), document.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise RlessError(f"{what} has no name and secret")
    if username == _TOKEN_USER:
        return Credentials("", "", secret)
    return Credentials(username, secret) if username else None


def store(helper: str, server: str, credentials: Credentials) -> None:
    """Give a helper a name and password to keep."""
    document = {
        "ServerURL": server,
        "Username": credentials.username,
        "Secret": credentials.password,
    }
    code, out = _call(helper, "store", json.dumps(document).encode())
    if code != 0:
        raise _failure(helper, "store", out)


def erase(helper: str, server: str) -> None:
    """Let a helper forget a server; it may have nothing of it."""
    code, out = _call(helper, "erase", server.encode())
    if code != 0 and _ABSENT not in out.decode("utf-8", "replace").lower():
        raise _failure(helper, "erase", out)


def servers(helper: str) -> list[str]:
    """Return the servers that a helper has something of."""
    code, out = _call(helper, "list", b"")
    if code != 0:
        raise _failure(helper, "list", out)
    return [str(name) for name in manifest.read_object(out, f"docker-credential-{helper} list")]


def _failure(helper: str, action: str, out: bytes) -> RlessError:
    """Return an error without what the program said: it might be a secret, except after get."""
    said = f": {escape(out.decode('utf-8', 'replace').strip())[:120]}" if action == "get" else ""
    return RlessError(f"docker-credential-{helper} {action} failed{said}")


def _call(helper: str, action: str, stdin: bytes) -> tuple[int, bytes]:
    program = find_program(helper)
    environment: dict[str, str] = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    environment |= {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [program, action],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RlessError(
            f"docker-credential-{helper} {action} took longer than {_SECONDS:.0f} seconds",
            "is a key chain locked?",
        ) from None
    except OSError as error:
        raise RlessError(f"cannot run {escape(program)}: {error.strerror}") from error
    if len(done.stdout) > limits.TOKEN_BYTES:
        raise RlessError(f"docker-credential-{helper} {action} says too much")
    return done.returncode, done.stdout


def find_program(helper: str) -> str:
    """Return the path of a helper's program.

    Raises:
        RlessError: it is no name of a helper, or there is no such program that can be trusted.
    """
    if not helper or helper[0] in ".-" or not _LETTERS.issuperset(helper) or len(helper) > 100:
        raise RlessError(
            f"'{escape(helper)[:100]}' is not the name of a credential helper",
            "credsStore and credHelpers take what follows docker-credential-",
        )
    path = programs.find_in_path(f"docker-credential-{helper}")
    if path is not None:
        return path
    raise RlessError(
        f"there is no program docker-credential-{helper} in PATH",
        "install it, or take credsStore or credHelpers out of the file of credentials",
    )


def of_document(document: dict[str, Any], registry: str) -> str | None:
    """Return the helper that a file of credentials names for a registry."""
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict) and isinstance(helpers.get(registry), str):
        return str(helpers[registry])
    general = document.get("credsStore")
    return general if isinstance(general, str) and general else None
