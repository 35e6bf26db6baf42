"""`rless container inspect`: all about containers, as JSON or by a template."""

from __future__ import annotations

from typing import Any

from rootless.cli.inspect import FORMAT, SIZE, show
from rootless.cli.parse import Verb

VERB = Verb(
    "container inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (("Options", (FORMAT, SIZE)),),
    least=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the containers."""
    return show(args, ("container",), values.get("format"), bool(values.get("size")))
