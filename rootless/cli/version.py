"""`rless version`: what this is and what it runs on."""

from __future__ import annotations

import os
import sys
from typing import Any

from rootless import __version__
from rootless.cli import output, streams
from rootless.cli.parse import Verb

VERB = Verb(
    "version",
    "[OPTIONS]",
    (
        (
            "Options",
            (("--format -f", "FORMAT", "value", "format", "text", "json, or a template"),),
        ),
    ),
    most=0,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the versions."""
    host = os.uname()
    row = {
        "Version": __version__,
        "Python": ".".join(str(part) for part in sys.version_info[:3]),
        "Os": host.sysname.lower(),
        "Arch": host.machine,
        "Kernel": host.release,
    }
    if values.get("format"):
        output.show([row], [(name, name.upper()) for name in row], template=values["format"])
    else:
        streams.write("".join(f"{name + ':':<10}{text}\n" for name, text in row.items()))
    return 0
