"""`rless rmi`: remove images."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "rmi",
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean", "Remove it although it is in use"),
                ("--no-prune", "", "flag", "accepted", "boolean",
                 "Accepted: an image here has no parents to remove"),
            ),
        ),
    ),
    (("--platform", "PLATFORM", "not built yet", ""),),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove images one by one; print the name of each that went."""
    from rootless.engine import images

    def remove(name: str) -> None:
        images.remove(name, bool(values.get("force")))
        streams.write(f"Untagged: {escape(name)}\n")

    return streams.each(args, remove)
