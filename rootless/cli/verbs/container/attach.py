"""`rless attach`: connect this terminal to a running container."""

from __future__ import annotations

import os

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "attach",
    "[OPTIONS] CONTAINER",
    (
        (
            "Options",
            (
                ("--detach-keys", "KEYS", "value", "detach_keys", "logging.detach_keys",
                 "Keys that detach from a container with a terminal (ctrl-p,ctrl-q)"),
                ("--no-stdin", "", "flag", "no_stdin", "boolean",
                 "Do not attach standard input"),
                ("--sig-proxy", "", "flag", "sig_proxy", "boolean",
                 "Forward signals to the process (true unless turned off)"),
            ),
        ),
    ),
    least=1,
    most=1,
)  # fmt: skip

_NOT = {
    "paused": ("a paused container", "rless unpause it first"),
    "restarting": ("a restarting container", "wait until it is running"),
}


def main(values: dict[str, Any], args: list[str]) -> int:
    """Attach to a container; return its exit code, or 0 when detached by the keys."""
    from rootless.engine.start.start import attach
    from rootless.engine.state import container as containers

    container = containers.find(args[0])
    status = container.status()[0]
    if status != "running":
        what, hint = _NOT.get(status, ("a stopped container", "start it first"))
        raise RlessError(f"you cannot attach to {what}", hint, 1)
    stdin = not values.get("no_stdin")
    if stdin and container.facts["tty"] and container.facts["stdin_open"] and not os.isatty(0):
        raise RlessError("standard input is not a terminal", "use --no-stdin", 1)
    wanted = [*(["stdin"] if stdin else []), "stdout", "stderr"]
    return attach(
        container, wanted, values.get("detach_keys"), sig_proxy=values.get("sig_proxy", True)
    )
