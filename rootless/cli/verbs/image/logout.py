"""`rless logout`: forget the log-in of a registry."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "logout",
    "[OPTIONS] [SERVER]",
    (
        (
            "Options",
            (("--all -a", "", "flag", "all", "boolean", "Log out of all registries"),),
        ),
    ),
    (("--authfile", "PATH", "a variable sets it for all verbs", "use REGISTRY_AUTH_FILE"),),
    most=1,
    failure=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Forget credentials, wherever rless would find them."""
    from rootless.engine.images import registries

    if values.get("all"):
        if args:
            raise RlessError("--all takes no registry", VERB.see_help())
        registries.logout(None)
        streams.write("Removed login credentials for all registries\n")
        return 0
    server = registries.server_of(args[0] if args else "")
    if registries.logout(server):
        streams.write(f"Removing login credentials for {escape(server)}\n")
    else:
        streams.write(f"Not logged in to {escape(server)}\n")
    return 0
