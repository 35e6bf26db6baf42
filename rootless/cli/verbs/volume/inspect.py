"""`rless volume inspect`: show all about volumes as JSON."""

from __future__ import annotations

from rootless.cli.parse import Verb

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
    from rootless.cli.verbs.system.inspect import show
    from rootless.engine.state.volumes import inspect_volume

    return show(args, inspect_volume, values.get("format"))
