"""`rless pull`: fetch an image."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "pull",
    "[OPTIONS] IMAGE",
    (
        (
            "Options",
            (
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image of a multi-platform index to take"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Print the name only"),
                ("--disable-content-trust", "", "flag", "accepted", "compat.content_trust",
                 "Accepted: Docker Content Trust has ended"),
            ),
        ),
    ),
    (("--all-tags -a", "", "not built yet", "pull each tag"),),
    least=1,
    most=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Fetch one image and print its full name."""
    from rootless.engine.images import pull

    image = pull(args[0], values.get("platform"), bool(values.get("quiet")))
    streams.write(f"{escape(str(image.name))}\n")
    return 0
