"""`rless rmi`: remove images."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "rmi",
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean",
                 "Remove all names of an id, even if stopped containers use the image"),
                ("--no-prune", "", "flag", "accepted", "boolean",
                 "Accepted without effect: images have no parents"),
            ),
        ),
    ),
    (("--platform", "PLATFORM", "not built yet", "each platform's image has an id of its own"),),
    least=1,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove images one by one; print what went."""
    from rootless.engine.images import images
    from rootless.image.transfer.remove import NotFoundError

    force = bool(values.get("force"))

    def remove(name: str) -> None:
        try:
            lines = images.remove(name, force)
        except NotFoundError as error:
            if not force:
                raise
            streams.report(error)  # as Docker: what is not there needs no removal
            return
        streams.write("".join(f"{line}\n" for line in lines))

    return streams.each(args, remove)
