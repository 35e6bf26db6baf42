"""Read the values of --restart, --log-driver, --log-opt, --detach-keys and --sdnotify."""

from __future__ import annotations

from rootless.cli.flags.values import choice, integer, refuse, size
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DRIVERS = ("local", "json-file", "journald", "none")
_FILES = ("local", "json-file")


def restart(value: str) -> dict[str, Any] | None:
    """Return {"name", "max"} of no, on-failure[:MAX], always, unless-stopped."""
    name, colon, most = value.partition(":")
    if not value:
        return None
    choice(name, "no", "on-failure", "always", "unless-stopped")
    if colon and name != "on-failure":
        raise ValueError("has a number of restarts, which only on-failure takes")
    return {"name": name, "max": integer(most, 0, 1 << 31) if colon else 0}


def driver(value: str) -> str | None:
    """Return the name of a log driver, None for the empty one: the default."""
    if value and value not in DRIVERS:
        raise refuse(
            f"--log-driver {value}",
            "rless has local, json-file, journald and none",
            "use one of these",
        )
    return value or None


def option(value: str) -> tuple[str, str]:
    """Return key and value of one --log-opt."""
    name, equals, content = value.partition("=")
    if not equals:
        raise ValueError("has no '='")
    return name, content


def options(driver: str, given: dict[str, str]) -> dict[str, Any]:
    """Return the options that the driver has, as plain values.

    Raises:
        RlessError: it has none of that name, or the value is wrong.
    """
    known = ("max-size", "max-file") if driver in _FILES else ("tag",) * (driver == "journald")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            which = f"it has {' and '.join(known)}" if known else "it has no options"
            raise RlessError(f"--log-opt {name}: log driver {driver} does not know it", which)
        try:
            found[name] = _READ[name](value)
        except ValueError as error:
            raise RlessError(f"--log-opt {name}: {value!r} {error}") from None
    return found


def _max_size(value: str) -> int:
    if value == "-1":
        return 1 << 62  # Docker: no limit
    number = size(value)
    if number <= 0:
        raise ValueError("is not a size above 0")
    return number


_READ: dict[str, Callable[[str], Any]] = {
    "max-size": _max_size,
    "max-file": lambda value: integer(value, 1, 1000),
    "tag": str,
}


def detach_keys(value: str) -> str:
    """Return the keys as typed, once they are seen to be ones; "" turns them off."""
    from rootless.engine.attach.detach_keys import parse

    parse(value)
    return value


def sdnotify(value: str) -> str:
    """Return who tells systemd that the container is ready."""
    return choice(value, "container", "conmon", "ignore")


def systemd(value: str) -> str:
    """Return whether the container is made ready for systemd."""
    return choice(value, "auto", "true", "always", "false")
