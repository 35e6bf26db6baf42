"""`rless export`: write a container's files as a tar archive."""

from __future__ import annotations

import os
from typing import Any

from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

VERB = Verb(
    "export",
    "[OPTIONS] CONTAINER",
    (
        (
            "Options",
            (
                (
                    "--output -o",
                    "FILE",
                    "value",
                    "output",
                    "text",
                    "Write to FILE instead of standard output",
                ),
            ),
        ),
    ),
    least=1,
    most=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Write the archive to the file, whole or not at all, or to standard output."""
    from rootless.engine.files.export import export

    path = values.get("output")
    if path is None:
        if os.isatty(1):
            raise RlessError(
                "cowardly refusing to save to a terminal", "use -o FILE, or redirect", 1
            )
        export(args[0], lambda: 1)
        return 0
    if not path:
        raise RlessError("--output needs the name of a file")
    export_to(path, args[0], export)
    return 0


def export_to(path: str, name: str, export: Any) -> None:
    """Write to a file beside the wanted one, which is replaced only by a complete archive."""
    import contextlib

    from rootless.linux.files import Output

    try:
        with contextlib.ExitStack() as stack:
            # Opened only once the container is found.
            export(name, lambda: stack.enter_context(Output(path)).fd)
    except OSError as error:
        raise RlessError(f"cannot write {escape(path)}: {error.strerror}", None, 1) from error
