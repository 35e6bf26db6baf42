"""Read the values of flags: one function a syntax, text in, plain value out.

The option tables name these functions, and those of `mounts`, `network`, `privileges` and `compat`
with the module before a dot. A wrong value is a `ValueError` whose text is the reason; the parser
adds the flag, the value and the expected form. A valid value that this version does not support is
an `RlessError`. The syntaxes are those of Docker 27/28 and its daemon.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError

TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_LIMITS = (
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime"
    " sigpending stack"
)
_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT"
    " STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ"
)  # `signal` would load enum


def refuse(what: str, why: str, use: str | None = None) -> RlessError:
    """Return the error for something of Docker that is known here and not done."""
    return RlessError(f"{what} is not supported: {why}", use)


def text(value: str) -> str:
    """Return `value`, which only must not hold what no path or argument can."""
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def line(value: str) -> str:
    """Return `value` if it is one line without control characters: it goes into files."""
    if any(ord(char) < 32 or char == "\x7f" for char in value):
        raise ValueError("holds a control character")
    return value


def optional(value: str) -> str | None:
    """Return `value`, or None for the empty one: Docker's way to say "the default"."""
    return line(value) or None


def required(value: str) -> str:
    """Return `value` if it is not empty."""
    if not value:
        raise ValueError("is empty")
    return line(value)


def boolean_of(value: str) -> bool | None:
    """Return the truth value as Go's strconv.ParseBool reads it, None if it is none."""
    return True if value in TRUE else False if value in FALSE else None


def boolean(value: str) -> bool:
    """Return the truth value as Go's strconv.ParseBool reads it."""
    truth = boolean_of(value)
    if truth is None:
        raise ValueError("is neither true nor false")
    return truth


def integer(value: str, low: int, high: int) -> int:
    """Return a decimal number of ASCII digits between `low` and `high`."""
    digits = value[1:] if value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise ValueError("is not a whole number")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"is not between {low} and {high}")
    return number


def size(value: str) -> int:
    """Return bytes from `64m`, `1.5g`, `4096`, `1 KiB`: binary units as Docker's RAMInBytes."""
    number = value.rstrip("bBiIkKmMgGtTpP")
    suffix = value[len(number) :].lower()
    number = number.removesuffix(" ")
    if not (number.isascii() and number.replace(".", "", 1).isdigit()) or len(number) > 19:
        raise ValueError("is not a size")
    if suffix in ("", "b"):
        shift = 0
    elif suffix[0] in _UNITS and suffix[1:] in ("", "b", "ib"):
        shift = _UNITS[suffix[0]]
    else:
        raise ValueError("has an unknown unit")
    amount = int(float(number) * (1 << shift))
    if amount >= 1 << 63:
        raise ValueError("is too large")
    return amount


def shm_size(value: str) -> int | None:
    """Return bytes, None for 0: the default."""
    return size(value) or None


def seconds(value: str) -> int:
    """Return whole seconds, -1 for "wait for ever"."""
    return integer(value, -1, 1 << 31)


def count(value: str) -> int:
    """Return how many; -1 for all."""
    return integer(value, -1, 1 << 31)


def oom_score(value: str) -> int:
    """Return a score adjustment (proc_pid_oom_score_adj(5))."""
    return integer(value, -1000, 1000)


def signal(value: str) -> str:
    """Return "SIGTERM" for TERM, SIGTERM and term; a number stays one; RTMIN+N is known too."""
    name = value.upper()
    if name.isascii() and name.isdigit():
        return str(integer(name, 1, 64))
    name = name.removeprefix("SIG")
    for base, sign, low in (("RTMIN", "+", 34), ("RTMAX", "-", 64)):
        if name == base:
            return f"SIG{name}"
        if name.startswith(base + sign):
            step = integer(name[len(base) + 1 :], 0, 30)
            return str(low + step if sign == "+" else low - step)
    if name not in _SIGNALS.split():
        raise ValueError("is not a signal")
    return f"SIG{name}"


def choice(value: str, *allowed: str) -> str:
    """Return `value` if it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"is not one of {', '.join(allowed)}")
    return value


def pull_policy(value: str) -> str:
    """Return when to pull."""
    return choice(value, "always", "missing", "never")


def join_key(value: str) -> str:
    """Return a KEY of --join; the bare flag means the one that is found out."""
    if len(value) > 256:
        raise ValueError("a KEY has 256 characters at most")
    return value


def explain(value: str) -> str:
    """Return the form of --explain; the bare flag means text."""
    return choice(value or "text", "text", "json")


def storage_driver(value: str) -> str:
    """Return the name of a root filesystem driver."""
    return choice(value, "overlay", "fuse-overlayfs", "copy")


def absolute(value: str) -> str:
    """Return the absolute form of a host path."""
    return os.path.abspath(required(text(value)))


def workdir(value: str) -> str | None:
    """Return an absolute path in the container."""
    if value and not value.startswith("/"):
        raise ValueError("is not an absolute path")
    return text(value) or None


def platform(value: str) -> str | None:
    """Return `os/arch[/variant]`."""
    if not value:
        return None
    parts = value.split("/")
    if not 1 <= len(parts) <= 3 or not all(
        part.isascii()
        and part[:1].isalnum()
        and part.replace("_", "a").replace(".", "a").replace("-", "a").isalnum()
        for part in parts
    ):
        raise ValueError("is not a platform")
    return value.lower()


def name_ok(value: str) -> bool:
    """Tell whether `value` is a name of Docker: [a-zA-Z0-9][a-zA-Z0-9_.-]+."""
    return (
        len(value) > 1
        and value.isascii()
        and value[0].isalnum()
        and all(char.isalnum() or char in "_.-" for char in value)
    )


def container_name(value: str) -> str | None:
    """Return a container name; a leading slash goes, as Docker does."""
    value = value.removeprefix("/") if len(value) > 1 else value
    if value and not name_ok(value):
        raise ValueError("has other than letters, digits, '_', '.', '-' or is too short")
    return value or None


def host_name(value: str) -> str | None:
    """Return a host name; it goes into /etc/hosts and sethostname(2) (64 bytes)."""
    if value and not (
        value.isascii()
        and value[0].isalnum()
        and all(char.isalnum() or char in "_.-" for char in value)
    ):
        raise ValueError("is not a host name")
    if len(value) > 64:
        raise ValueError("is longer than 64 characters")
    return value or None


def env(value: str) -> str:
    """Return `KEY=VALUE` or a bare `KEY`."""
    if not value or value.startswith("="):
        raise ValueError("has no variable name")
    return text(value)


def label(value: str) -> tuple[str, str]:
    """Return the key and the value (empty if left out)."""
    key, _, content = text(value).partition("=")
    key = key.lstrip(" \t")
    if not key:
        raise ValueError("has no name")
    if " " in key or "\t" in key:
        raise ValueError("has white space in its name")
    return key, content


def ulimit(value: str) -> tuple[str, int, int]:
    """Return (name, soft, hard) of `nofile=1024[:2048]`; -1 is unlimited."""
    name, equals, limits = value.partition("=")
    if not equals:
        raise ValueError("has no '='")
    if name not in _LIMITS.split():
        raise ValueError(f"names no limit; known are {_LIMITS}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError("has more than two limits")
    soft = integer(parts[0], -1, (1 << 63) - 1)
    hard = integer(parts[-1], -1, (1 << 63) - 1)
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError("has a soft limit above the hard one")
    return name, soft, hard
