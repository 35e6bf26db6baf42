"""`rless load`: read images from an archive."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "load",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--input -i", "FILE", "value", "input", "text",
                 "Read FILE, or a directory (an OCI layout, or a docker-dir), not standard input"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Load only images for this platform"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show no progress"),
                ("--signature-policy", "FILE", "value", "signature_policy", "absolute",
                 "The policy.json that the images have to satisfy"),
            ),
        ),
    ),
    most=0,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Load all images of the archive, and print what each is called."""
    from rootless.engine.images.archives import load

    path = values.get("input") or None
    for image, references in load(
        path,
        platform=values.get("platform"),
        quiet=bool(values.get("quiet")),
        signature_policy=values.get("signature_policy"),
    ):
        for reference in references:
            streams.write(f"Loaded image: {escape(reference.familiar)}\n")
        if not references:
            streams.write(f"Loaded image ID: {image.id}\n")
    return 0
