"""`rless volume create`: make a volume."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import choice, refuse
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "volume create",
    "[OPTIONS] [VOLUME]",
    (
        (
            "Options",
            (
                ("--driver -d", "DRIVER", "value", "driver", "volume.create.driver",
                 "Only `local`: volumes are directories of the storage"),
                ("--label", "KEY[=VALUE]", "map", "labels", "label", "Set a label"),
                ("--opt -o", "KEY=VALUE", "map", "options", "label",
                 "type=none, o=bind and device=DIR together mount a directory of the host"),
                ("--name", "NAME", "value", "name", "text", "The name, as by the argument"),
            ),
        ),
    ),
    (
        ("--availability", "WHEN", "there is no cluster", ""),
        ("--group", "GROUP", "there is no cluster", ""),
        ("--limit-bytes", "SIZE", "there is no cluster", ""),
        ("--required-bytes", "SIZE", "there is no cluster", ""),
        ("--scope", "SCOPE", "there is no cluster", ""),
        ("--secret", "SECRET", "there is no cluster", ""),
        ("--sharing", "MODE", "there is no cluster", ""),
        ("--topology-preferred", "TOPOLOGY", "there is no cluster", ""),
        ("--topology-required", "TOPOLOGY", "there is no cluster", ""),
        ("--type", "TYPE", "there is no cluster", ""),
    ),
    most=1,
)  # fmt: skip


def driver(value: str) -> str:
    """Return the only driver."""
    if value != "local":
        raise refuse(f"the volume driver {value}", "volumes are local directories", "use local")
    return value


def main(values: dict[str, Any], args: list[str]) -> int:
    """Make a volume; print its name."""
    from rootless.engine.state import volumes

    name = args[0] if args else values.get("name")
    if args and values.get("name"):
        raise RlessError("the name is given twice, by --name and as an argument", exit_code=1)
    if name and not volumes.is_name(name):
        raise RlessError(
            f"{name!r} is not the name of a volume",
            "a name has at least two letters, digits, '_', '.' or '-'; "
            "for a directory of the host use -v with an absolute path",
            1,
        )
    made = volumes.create(name or None, values.get("labels", {}), check(values.get("options", {})))
    streams.write(f"{made}\n")
    return 0


def check(options: dict[str, str]) -> dict[str, str]:
    """Return the options of Docker's local driver, if they can be honoured without root.

    Raises:
        RlessError: they cannot: mounting a device or a network file system needs root.
    """
    for key in options:
        if key not in ("type", "o", "device"):
            raise RlessError(f"--opt {key}: the local driver has no such option", exit_code=1)
    if not options:
        return {}
    kind, device = options.get("type", ""), options.get("device", "")
    if kind not in ("none", "bind"):
        raise refuse(
            f"--opt type={kind}",
            "mounting a file system for several containers needs root",
            "use --opt type=none --opt o=bind --opt device=DIR, or run --tmpfs",
        )
    for option in options.get("o", "").split(","):
        try:
            choice(option, "bind", "rbind", "rw")
        except ValueError:
            raise refuse(f"--opt o={option}", "only bind is possible without root") from None
    if not device.startswith("/"):
        raise RlessError("--opt device: it is no absolute path", exit_code=1)
    return options
