"""`rless version`: what this is and what it runs on."""

from __future__ import annotations

import os
import sys
from typing import Any

from rootless import __version__
from rootless.cli import streams
from rootless.cli.parse import Verb

VERB = Verb(
    "version",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--format -f", "FORMAT", "value", "format", "text",
                 "json, or a template such as '{{.Client.Version}}'"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the versions; there is no server that could have others."""
    host = os.uname()
    row: dict[str, Any] = {
        "Version": __version__,
        "Python": ".".join(str(part) for part in sys.version_info[:3]),
        "Os": host.sysname.lower(),
        "Arch": host.machine,
        "Kernel": host.release,
    }
    template = values.get("format")
    if not template:
        streams.write("".join(f"{name + ':':<10}{text}\n" for name, text in row.items()))
        return 0
    from rootless.cli.template import render

    # Scripts written for Docker ask for {{.Client.Version}} and, daemon or not, {{.Server...}}.
    both = {**row, "Client": row, "Server": row}
    if template == "json":
        both, template = {"Client": row, "Server": row}, "{{json .}}"
    streams.write(render(template, both) + "\n")
    return 0
