"""`rless start`: start containers that are not running."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "start",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--attach -a", "", "flag", "attach", "boolean",
                 "Attach the output, forward signals, and exit with the container's code"),
                ("--interactive -i", "", "flag", "interactive", "boolean",
                 "Attach standard input"),
                ("--detach-keys", "KEYS", "value", "detach_keys", "logging.detach_keys",
                 "Keys that detach from a container with a terminal (ctrl-p,ctrl-q)"),
                ("--sig-proxy", "", "flag", "sig_proxy", "boolean",
                 "Forward signals to the process (true unless turned off)"),
            ),
        ),
    ),
    (
        ("--checkpoint", "NAME", "there are no checkpoints", ""),
        ("--checkpoint-dir", "DIR", "there are no checkpoints", ""),
    ),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Start containers one by one and print their names; or start one and stay attached."""
    from rootless.engine.start.start import start
    from rootless.engine.state.container import find

    attach, stdin = bool(values.get("attach")), bool(values.get("interactive"))
    keys, proxy = values.get("detach_keys"), values.get("sig_proxy", True)
    if attach or stdin:
        if len(args) > 1:
            raise RlessError("you cannot start and attach multiple containers at once", None, 1)
        wanted = [*(["stdin"] if stdin else []), "stdout", "stderr"]
        return start(find(args[0]), wanted, keys, proxy)

    def action(name: str) -> None:
        start(find(name))
        streams.write(f"{escape(name)}\n")

    return 1 if streams.each(args, action) else 0
