"""`rless volume inspect`: show all about volumes as JSON."""

from __future__ import annotations

import json

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "volume inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    (
        (
            "Options",
            (("--format -f", "FORMAT", "value", "format", "text", "json, or a Go template"),),
        ),
    ),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what is there of the volumes that are there; report the others."""
    from rootless.engine.volumes import inspect_volume

    found, code = [], 0
    for name in args:
        try:
            found.append(inspect_volume(name))
        except RlessError as error:
            code = streams.report(error)
    template = values.get("format")
    if template in (None, ""):
        streams.write(f"{json.dumps(found, indent=4)}\n")
    elif template == "json":
        streams.write(f"{json.dumps(found)}\n")
    else:
        from rootless.cli.template import render

        streams.write("".join(f"{render(str(template), volume)}\n" for volume in found))
    return code
