"""Read the flags -e and --env-file of `run`, `create` and `exec`."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.exec import ExecRequest
    from rootless.engine.request import RunRequest


def read_environment(request: RunRequest | ExecRequest, values: dict[str, Any]) -> None:
    """Set `env`: the files first, then the flags; bare names are looked up here."""
    for path in values.get("env_file", ()):
        from rootless.cli.kvfile import read

        request.env += read("--env-file", path, os.environ)
    for entry in values.get("env", ()):
        if "=" in entry:
            request.env.append(entry)
        elif entry in os.environ:
            request.env.append(f"{entry}={os.environ[entry]}")
        else:
            request.env_remove.append(entry)
