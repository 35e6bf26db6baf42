"""`rless cp`: copy files between a container and here."""

from __future__ import annotations

import os
from typing import Any

from rootless.cli.parse import Verb

VERB = Verb(
    "cp",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
    (
        (
            "Options",
            (
                ("--archive -a", "", "flag", "archive", "boolean",
                 "Keep the uids and gids of the source"),
                ("--follow-link -L", "", "flag", "follow", "boolean",
                 "If SRC_PATH is a link, copy its target"),
                ("--quiet -q", "", "flag", "quiet", "boolean",
                 "Do not report success (default if stdout is not a terminal)"),
            ),
        ),
    ),
    least=2,
    most=2,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Copy one file or tree; `-` is a tar archive on standard input or output."""
    from rootless.engine.files.copy import CopyRequest, copy

    quiet = values.get("quiet", not os.isatty(1))
    request = CopyRequest(bool(values.get("archive")), bool(values.get("follow")), quiet)
    copy(args[0], args[1], request)
    return 0
