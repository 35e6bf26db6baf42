"""`rless container exists`: tell by the exit code whether there is such a container."""

from __future__ import annotations

from rootless.cli import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = exists.verb("container")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Look it up; print nothing."""
    from rootless.engine.state.container import find
    from rootless.engine.state.reconcile import reconcile

    reconcile()
    return exists.tell(find, args[0])
