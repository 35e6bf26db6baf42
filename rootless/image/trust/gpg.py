"""GnuPG: sign with a key of the user, verify with keys of a policy. No cryptography of our own.

Verifying has a home of its own, which is thrown away: the user's keys, configuration and agent
play no part. A verdict is read from the status lines, never from the exit code alone, because gpg
exits with 0 for a signature of an expired or revoked key.

Source: gpg(1); GnuPG, doc/DETAILS, "Format of the status output".
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

from rootless.errors import RlessError, escape
from rootless.image.model.digest import is_hex
from rootless.image.trust import payload
from rootless.image.trust.signature import RefusedError
from rootless.linux import programs

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 60  # of one command
_SIGN_SECONDS = 600  # the passphrase may be typed
# RFC 4880, section 9.4. Who can choose two documents can give them one SHA-1.
_WEAK_HASHES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
_OF_DOCUMENTS = ("00", "01")  # signature classes: binary, text
_PREFIX = "[GNUPG:] "
_ALONE = (
    "--no-options",
    "--no-autostart",
    "--batch",
    "--no-tty",
    "--quiet",
    "--disable-dirmngr",
    "--no-auto-check-trustdb",
    "--trust-model",
    "always",
)
_WHY = {
    "EXPKEYSIG": "the key of the signature has expired",
    "EXPSIG": "the signature has expired",
    "REVKEYSIG": "the key of the signature was revoked",
    "BADSIG": "the signature is forged or damaged",
    "NO_PUBKEY": "the signature is by a key that the policy does not name",
    "ERRSIG": "GnuPG does not check signatures of that kind",
}


def verify(message: bytes, keys: Sequence[bytes]) -> bytes:
    """Return what an OpenPGP message signs, if one of the keys has signed it.

    Args:
        keys: public keys, armored or not.

    Raises:
        RefusedError: it is no such message, or not signed by one of the keys as they are now.
        RlessError: GnuPG is missing, or none of the keys is a key.
    """
    with tempfile.TemporaryDirectory(prefix="rless-gpg-") as home:
        trusted: set[str] = set()
        for key in keys:
            status = _run(home, ["--import"], key)[1]
            trusted.update(words[2] for words in status if words[0] == "IMPORT_OK" and words[2:])
        if not trusted:
            raise RefusedError("the policy names no OpenPGP key that GnuPG can read")
        most = str(payload.MOST_BYTES)
        arguments = ["--max-output", most, "--output", "-", "--verify", "-"]
        signed, status = _run(home, arguments, message)
    _judge(status, trusted)
    return signed


def _judge(status: Sequence[Sequence[str]], trusted: set[str]) -> None:
    """Raise unless there is exactly one signature, good now, of one document, by a trusted key."""
    said = [words[0] for words in status]
    for word, why in _WHY.items():
        if word in said:
            raise RefusedError(why)
    if any(said.count(word) != 1 for word in ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")):
        raise RefusedError("it is not one document with one good OpenPGP signature")
    valid = status[said.index("VALIDSIG")]
    # VALIDSIG fpr date time expires version reserved key-algorithm hash class primary-fpr
    if len(valid) < 11 or valid[10] not in trusted:
        raise RefusedError("the signature is by a key that the policy does not name")
    if valid[1] != valid[10]:
        # So that an image is not signed here which Podman refuses elsewhere.
        raise RefusedError("the signature is by a subkey: only primary keys are accepted")
    if valid[8] in _WEAK_HASHES:
        raise RefusedError(f"the signature is over a weak hash, {_WEAK_HASHES[valid[8]]}")
    if valid[9] not in _OF_DOCUMENTS:
        raise RefusedError("the signature is not one of a document")


def _run(home: str, arguments: Sequence[str], given: bytes) -> tuple[bytes, list[list[str]]]:
    """Run gpg in a home of its own; return its output and the words of its status lines."""
    path = f"{home}/status"
    try:
        done = subprocess.run(
            [program(), "--homedir", home, *_ALONE, "--status-file", path, *arguments],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "HOME": home, "LC_ALL": "C.UTF-8"},
            cwd=home,
            timeout=_SECONDS,
            check=False,
        )
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(payload.MOST_BYTES).splitlines()
    except subprocess.TimeoutExpired:
        raise RefusedError("GnuPG takes too long for this signature") from None
    except OSError as error:
        raise RlessError(f"cannot run GnuPG: {error.strerror}") from error
    words = [line.removeprefix(_PREFIX).split(" ") for line in lines if line.startswith(_PREFIX)]
    return done.stdout, words


def sign(document: bytes, key: str, passphrase: str | None = None) -> bytes:
    """Return an OpenPGP message with `document` in it, signed by a key of the user.

    Args:
        key: fingerprint, or whatever else gpg finds the key by.
        passphrase: of the key; None: the user's agent has it, or asks.

    Raises:
        RlessError: GnuPG is missing, has no such key, or cannot use it.

    Where it runs: on the host, in the user's own environment, with the user's agent.
    """
    if is_hex(key.lower(), 40):
        key += "!"  # not by a subkey, see `_judge`
    # A hash that `verify` accepts, whatever the user's gpg.conf prefers.
    command = [program(), "--batch", "--yes", "--quiet", "--digest-algo", "SHA256"]
    reading = -1
    if passphrase is not None:
        reading, writing = os.pipe()
        with open(writing, "wb") as file:
            file.write(passphrase.encode() + b"\n")
        command += ["--pinentry-mode", "loopback", "--passphrase-fd", str(reading)]
    try:
        done = subprocess.run(
            [*command, "--local-user", key, "--output", "-", "--sign"],
            input=document,
            capture_output=True,
            pass_fds=(reading,) if reading >= 0 else (),
            env={**_terminal(), **os.environ},
            timeout=_SIGN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RlessError("cannot sign: nobody has given GnuPG the passphrase") from None
    except OSError as error:
        raise RlessError(f"cannot run GnuPG: {error.strerror}") from error
    finally:
        if reading >= 0:
            os.close(reading)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = escape(said[-1] if said else "it says nothing")[:300]
        raise RlessError(
            f"cannot sign with the key {escape(key)[:100]}: {why}",
            "gpg --list-secret-keys shows the keys; --sign-passphrase-file has the passphrase",
        )
    return done.stdout


def _terminal() -> dict[str, str]:
    """Return where the agent may ask for a passphrase: gpg itself reads from a pipe."""
    try:
        return {"GPG_TTY": os.ttyname(2)}
    except OSError:
        return {}


def owners(key: bytes) -> list[str]:
    """Return who the keys in a file belong to, by address where there is one.

    Raises:
        RlessError: GnuPG is missing.
    """
    with tempfile.TemporaryDirectory(prefix="rless-gpg-") as home:
        listed, _ = _run(home, ["--with-colons", "--show-keys"], key)
    found = []
    for line in listed.decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == "uid" and len(fields) > 9:
            address = fields[9].partition("<")[2].partition(">")[0]
            found.append(address or fields[9])
    return found


def program() -> str:
    """Return the path of gpg.

    Raises:
        RlessError: it is not installed.
    """
    found = programs.find("gpg")
    if found is None:
        raise RlessError("GnuPG is not installed", "ask the administrator for the package gnupg")
    return found
