"""`rless login`: verify a name and password with a registry, and keep them."""

from __future__ import annotations

import os
import sys

from rootless import log
from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST = 64 << 10  # a token may be long

VERB = Verb(
    "login",
    "[OPTIONS] [SERVER]",
    (
        (
            "Options",
            (
                ("--username -u", "NAME", "value", "username", "required",
                 "Your user name at the registry"),
                ("--password-stdin", "", "flag", "stdin", "boolean",
                 "Read the password from standard input"),
            ),
        ),
    ),
    (
        ("--password -p", "PASSWORD", "other users would see it in the list of processes",
         "use --password-stdin, or enter it when asked"),
        ("--tls-verify", "", "it can only be set for each host",
         "use insecure = true in registries.conf"),
        ("--authfile", "PATH", "a variable sets it for all verbs", "use REGISTRY_AUTH_FILE"),
    ),
    most=1,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Log in to a registry."""
    from rootless.engine.images import registries

    server = registries.server_of(args[0] if args else "")
    username, from_stdin = values.get("username"), bool(values.get("stdin"))
    if from_stdin and not username:
        raise RlessError("Must provide --username with --password-stdin", VERB.see_help())
    if not username and not from_stdin:
        known = registries.existing(server)
        if known is not None and not known.identity_token:
            streams.write("Authenticating with existing credentials...\n")
            try:
                registries.verify(server, known)
                streams.write("Login Succeeded\n")
                return 0
            except RlessError as error:
                if not os.isatty(0):
                    raise
                streams.report(error)
    if not from_stdin and not os.isatty(0):
        raise RlessError(
            "Cannot perform an interactive login from a non TTY device", "use --password-stdin"
        )
    if not username:
        username = _ask(f"Username ({escape(known.username)}): " if known else "Username: ")
        username = username or (known.username if known else "")
    password = _piped() if from_stdin else _ask("Password: ", hidden=True)
    if not username or not password:
        raise RlessError("login needs a name and a password, which is not empty", VERB.see_help())
    if ":" in username:
        raise RlessError("a name cannot hold a colon")
    place = registries.login(server, username, password)
    if place.startswith("/"):
        log.warn(
            f"your password is stored unencrypted in {place}; "
            "credsStore in that file names a helper that keeps it better"
        )
    streams.write("Login Succeeded\n")
    return 0


def _piped() -> str:
    """Return the password from standard input, without the newline that ends it."""
    data = sys.stdin.buffer.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise RlessError("the password on standard input is too long")
    text = _text(data)
    return text.removesuffix("\n").removesuffix("\r")


def _ask(prompt: str, *, hidden: bool = False) -> str:
    """Ask on the terminal; what is hidden is not shown while it is typed."""
    if not hidden:
        streams.write(prompt, 2)
        return _text(sys.stdin.buffer.readline(_LONGEST)).strip()
    import termios

    before = termios.tcgetattr(0)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    try:
        # Before the prompt: what is typed at once is neither shown nor lost.
        termios.tcsetattr(0, termios.TCSAFLUSH, silent)
        streams.write(prompt, 2)
        return _text(sys.stdin.buffer.readline(_LONGEST)).rstrip("\r\n")
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
        streams.write("\n", 2)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RlessError("the name or password is not UTF-8") from None
