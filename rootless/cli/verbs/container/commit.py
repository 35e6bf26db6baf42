"""`rless commit`: make an image of a container."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb

VERB = Verb(
    "commit",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    (
        (
            "Options",
            (
                ("--author -a", "NAME", "value", "author", "text",
                 "The author, such as 'Ada Lovelace <ada@example.org>'"),
                ("--change -c", "INSTRUCTION", "list", "change", "text",
                 "Apply a Dockerfile instruction (CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, "
                 "LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR) to the image's config"),
                ("--message -m", "TEXT", "value", "message", "text", "A comment on the change"),
                ("--pause -p", "", "flag", "pause", "boolean",
                 "Pause the container during the commit (default true)"),
            ),
        ),
    ),
    least=1,
    most=2,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Make the image and print its id."""
    from rootless.engine.files.commit import commit

    made = commit(
        args[0],
        args[1] if len(args) > 1 else None,
        author=values.get("author", ""),
        message=values.get("message", ""),
        change=values.get("change", ()),
        pause=values.get("pause", True),
    )
    streams.write(f"{made}\n")
    return 0
