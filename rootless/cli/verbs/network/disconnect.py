"""`rless network disconnect`: take a container out of a network, running or not."""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network disconnect",
    "[OPTIONS] NETWORK CONTAINER",
    (
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean",
                 "Succeed if the container is not in the network"),
            ),
        ),
    ),
    least=2,
    most=2,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Disconnect, and print nothing, as Docker."""
    from rootless.engine.manage import network_connect
    from rootless.engine.state import reconcile

    reconcile.reconcile()
    network_connect.disconnect(args[0], args[1], bool(values.get("force")))
    return 0
