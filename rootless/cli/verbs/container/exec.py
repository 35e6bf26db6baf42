"""`rless exec`: run a command in a running container."""

from __future__ import annotations

import os

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "exec",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    (
        (
            "Options",
            (
                ("--detach -d", "", "flag", "detach", "boolean",
                 "Leave the command running in the background"),
                ("--interactive -i", "", "flag", "interactive", "boolean",
                 "Keep standard input open"),
                ("--tty -t", "", "flag", "tty", "boolean",
                 "Give the command a terminal of its own"),
                ("--user -u", "USER[:GROUP]", "value", "user", "optional",
                 "Run as this user; names and numbers are those of the container"),
                ("--workdir -w", "DIR", "value", "workdir", "workdir",
                 "Start in this directory of the container"),
                ("--env -e", "KEY[=VALUE]", "list", "env", "env",
                 "Set a variable; without a value, copy it from your environment"),
                ("--env-file", "FILE", "list", "env_file", "required",
                 "Read variables from a file"),
                ("--privileged", "", "flag", "privileged", "boolean",
                 "All capabilities; no rights beyond yours"),
                ("--detach-keys", "KEYS", "value", "detach_keys", "text",
                 "Keys that detach from the command (ctrl-p,ctrl-q)"),
            ),
        ),
    ),
    least=2,
    interspersed=False,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Run the command; return its exit status."""
    from rootless.engine.exec.exec import ExecRequest, execute

    request = ExecRequest(args[0], args[1:])
    for dest, value in values.items():
        if dest not in ("env", "env_file"):
            setattr(request, dest, value)
    if "env" in values or "env_file" in values:
        from rootless.cli.flags.kvfile import environment

        request.env, request.env_remove = environment(values)
    if request.tty and request.interactive and not request.detach and not os.isatty(0):
        raise RlessError("standard input is not a terminal", "leave -t out", 1)
    return execute(request)
