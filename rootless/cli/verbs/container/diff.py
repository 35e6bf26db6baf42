"""`rless diff`: show what a container changed in its files."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb("diff", "CONTAINER", least=1, most=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print a line a change: A, C or D, and the path."""
    from rootless.engine.files.diff import diff

    streams.write("".join(f"{kind} {escape(path)}\n" for kind, path in diff(args[0])))
    return 0
