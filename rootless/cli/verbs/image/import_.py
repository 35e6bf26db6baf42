"""`rless import`: make an image of a tar archive of files."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "import",
    "[OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
    (
        (
            "Options",
            (
                ("--change -c", "INSTRUCTION", "list", "changes", "text",
                 "Apply an instruction of a Dockerfile to the image's config"),
                ("--message -m", "TEXT", "value", "message", "text",
                 "The comment in the image's history"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "The platform that the files are for"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show no progress"),
            ),
        ),
    ),
    least=1,
    most=2,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Make the image and print its id."""
    from rootless.engine.images.archives import import_archive

    image = import_archive(
        args[0],
        args[1] if len(args) > 1 else None,
        instructions=values.get("changes") or (),
        message=values.get("message"),
        platform=values.get("platform"),
        quiet=bool(values.get("quiet")),
    )
    streams.write(f"{image.id}\n")
    return 0
