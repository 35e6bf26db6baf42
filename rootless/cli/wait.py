"""`rless wait`: wait until containers end."""

from __future__ import annotations

from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb

VERB = Verb("wait", "CONTAINER [CONTAINER...]", least=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Wait for containers one by one; print the exit code of each."""
    from rootless.engine.control import wait

    return streams.each(args, lambda name: streams.write(f"{wait(name)}\n"))
