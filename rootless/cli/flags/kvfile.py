"""Read -e and the files of --env-file and --label-file: Docker's format, no more and no less.

One KEY[=VALUE] a line. White space before a key is dropped, `#` starts a comment only at the
start of a line, a byte order mark goes. Quotes, `$` and backslashes are ordinary characters.
A file that ends with a NUL is /proc/PID/environ's kind: what is between two of them is a variable.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MOST = 16 * 1024 * 1024  # bytes of a file: above what execve(2) takes in all, 6 MiB
_LONGEST = 64 * 1024  # bytes of a line, as Docker (bufio.MaxScanTokenSize)


def environment(values: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the variables of a command line: the files first, then the flags.

    Returns:
        KEY=VALUE of each, bare names looked up here, and the bare names that are not set here.
    """
    found: list[str] = []
    unset: list[str] = []
    for path in values.get("env_file", ()):
        found += read("--env-file", path, os.environ)
    for entry in values.get("env", ()):
        if "=" in entry:
            found.append(entry)
        elif "*" in entry or "?" in entry or "[" in entry:
            from rootless.engine.spec.hpc import matching

            found += matching([entry])
        elif entry in os.environ:
            found.append(f"{entry}={os.environ[entry]}")
        else:
            unset.append(entry)
    return found, unset


def read(flag: str, path: str, lookup: Mapping[str, str] | None) -> list[str]:
    """Return the lines of `path` as `KEY=VALUE`.

    Args:
        flag: for messages.
        path: may be a pipe: it is read once, to its end.
        lookup: where a bare KEY gets its value; it is left out if it is not there. None:
            bare keys are left out.

    Raises:
        RlessError: the file cannot be read or has a line that is no pair.
    """
    result = []
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RlessError(f"{flag} {path}: {reason}") from error
    if len(content) > _MOST:
        raise RlessError(f"{flag} {path} has more than {_MOST} bytes")
    if content.endswith(b"\0") and (content.count(b"\0") > 1 or b"\n" not in content):
        return _of_records(content, f"{flag} {path}")
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{flag} {path}: line {number}"
        if len(raw) >= _LONGEST:
            raise RlessError(f"{where} is longer than {_LONGEST} bytes")
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise RlessError(f"{where} is not UTF-8") from None
        if not line or line.startswith("#"):
            continue
        key, equals, _ = line.partition("=")
        if not key:
            raise RlessError(f"{where} has no name before '='")
        if " " in key or "\t" in key:
            raise RlessError(f"{where} has white space in the name {key!r}")
        if "\0" in line:
            raise RlessError(f"{where} holds a NUL character")
        if equals:
            result.append(line)
        elif lookup is not None and key in lookup:
            result.append(f"{key}={lookup[key]}")
    return result


def _of_records(content: bytes, where: str) -> list[str]:
    """Return the variables of a file with a NUL behind each, as Slurm's CreateEnvFile=null."""
    result = []
    for number, raw in enumerate(content[:-1].split(b"\0"), 1):
        text = raw.decode("utf-8", "surrogateescape")
        if not text.partition("=")[0] or "=" not in text:
            raise RlessError(f"{where}: record {number} is no KEY=VALUE")
        result.append(text)
    return result
