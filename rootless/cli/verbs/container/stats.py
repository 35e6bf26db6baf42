"""`rless stats`: show what containers use, live."""

from __future__ import annotations

import os
import time

from rootless.cli import output, streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.query.stats import Sample
    from rootless.engine.state.container import Container

VERB = Verb(
    "stats",
    "[OPTIONS] [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean", "Also show containers that do not run"),
                ("--no-stream", "", "flag", "once", "boolean", "Show one result and exit"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show full ids"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Name}} {{.MemUsage}}'"),
            ),
        ),
    ),
)  # fmt: skip

COLUMNS = (
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
)
_INTERVAL = 1.0  # seconds
_CLEAR = "\033[H\033[J"


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print a table, again each second until it is interrupted."""
    from rootless.engine.query.stats import Sample
    from rootless.engine.state import container as containers

    named = [containers.find(name) for name in args]
    asked = dict(zip((one.id for one in named), args, strict=True))
    terminal = os.isatty(1) and not values.get("once")
    before: dict[str, Sample] = {}
    while True:
        shown = named or _all(bool(values.get("all")))
        now = {container.id: Sample(container) for container in shown}
        if before or not shown:
            rows = [
                row(container, now[container.id], before, bool(values.get("full")), asked)
                for container in shown
            ]
            if terminal:
                streams.write(_CLEAR)
            output.show(rows, COLUMNS, template=values.get("format"))
            if values.get("once"):
                return 0
        before = now
        time.sleep(_INTERVAL)  # ^C is the way out


def _all(ended_too: bool) -> list[Container]:
    from rootless.engine.state import container as containers

    found = filter(None, map(containers.load, containers.all_ids()))
    chosen = [one for one in found if ended_too or one.init() is not None]
    return sorted(chosen, key=lambda one: -float(one.facts["created"]))


def row(
    container: Container,
    sample: Sample,
    before: dict[str, Sample],
    full: bool,
    asked: dict[str, str],
) -> dict[str, object]:
    """Return what a container uses under Docker's field names; `asked`: id -> as it was named."""
    cpu = sample.cpu_percent(before.get(container.id, sample))
    return {
        "BlockIO": f"{_decimal(sample.read)} / {_decimal(sample.written)}",
        "CPUPerc": f"{cpu:.2f}%",
        "Container": asked.get(container.id) or output.short_id(container.id, full),
        "ID": output.short_id(container.id, full),
        "MemPerc": f"{sample.memory_percent():.2f}%",
        "MemUsage": f"{_binary(sample.memory)} / {_binary(sample.limit)}",
        "Name": container.facts["name"],
        "NetIO": f"{_decimal(sample.received)} / {_decimal(sample.sent)}",
        "PIDs": str(sample.pids),
    }


def _binary(size: float) -> str:
    """Return "1.5MiB": four digits, as Docker."""
    return _human(size, 1024, "B KiB MiB GiB TiB PiB", 4)


def _decimal(size: float) -> str:
    """Return "1.45kB": three digits, as Docker."""
    return _human(size, 1000, "B kB MB GB TB PB", 3)


def _human(size: float, base: int, units: str, digits: int) -> str:
    names = units.split()
    index = 0
    while size >= base and index < len(names) - 1:
        size /= base
        index += 1
    return f"{size:.{digits}g}{names[index]}" if size < 1000 else f"{size:.0f}{names[index]}"
