"""Defaults of `run` and `create` from the configuration, read as the flags that they stand for."""

from __future__ import annotations

from rootless import config
from rootless.cli.parse import Verb, convert
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# (section, key, flag)
_FLAGS = (
    ("storage", "driver", "--storage-driver"),
    ("containers", "cgroup-manager", "--cgroup-manager"),
    ("containers", "cgroup-parent", "--cgroup-parent"),
    ("containers", "limits", "--limits"),
    ("containers", "log-driver", "--log-driver"),
    ("containers", "network", "--network"),
    ("containers", "pids-limit", "--pids-limit"),
    ("containers", "stop-timeout", "--stop-timeout"),
    ("containers", "userns", "--userns"),
)


def add(verb: Verb, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a command line, with what the file says where a flag is not given.

    Raises:
        RlessError: the file has a value that the flag would refuse.
    """
    index = verb.index()
    found: dict[str, Any] = {}
    settings = config.sections()
    for section, key, flag in _FLAGS:
        value = settings.get(section, {}).get(key)
        row = index.get(flag)
        if value is None or row is None or len(row) != 6 or row[3] in values:
            continue
        try:
            converted = convert(row, key, str(value))
        except RlessError as error:
            raise error.within(
                f"the configuration {config.origin(section, key)}: {key} in [{section}]"
            ) from error
        found[row[3]] = [converted] if row[2] == "list" else converted
    found = {**found, **values}
    if (found.get("log_driver") or "local") in ("local", "json-file"):
        limits = {
            option: str(value)
            for option in ("max-size", "max-file")
            if (value := settings.get("containers", {}).get(f"log-{option}")) is not None
        }
        found["log_options"] = {**limits, **found.get("log_options", {})}
    return found
