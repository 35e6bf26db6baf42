"""`rless container inspect`: all about containers, as JSON or by a template."""

from __future__ import annotations

from typing import Any

from rootless.cli.parse import Verb
from rootless.cli.verbs.system.inspect import FORMAT, SIZE, look_up, show

VERB = Verb(
    "container inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (("Options", (FORMAT, SIZE)),),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the containers."""
    size = bool(values.get("size"))
    return show(args, lambda name: look_up(name, ("container",), size), values.get("format"))
