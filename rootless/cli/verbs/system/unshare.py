"""`rless unshare`: run a command in the user namespace of containers."""

from __future__ import annotations

import os
from typing import Any

from rootless.cli.parse import Verb

VERB = Verb("unshare", "[COMMAND] [ARG...]", interspersed=False)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Run the command, or a shell, with the default map of ids; return its exit status."""
    from rootless.engine.idmap_policy import unshare

    code: int = unshare(args or [os.environ.get("SHELL") or "/bin/sh"])
    return code
