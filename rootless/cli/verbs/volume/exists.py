"""`rless volume exists`: tell by the exit code whether there is such a volume."""

from __future__ import annotations

from rootless.cli import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = exists.verb("volume")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Look it up; print nothing."""
    from rootless.engine.state.volumes import get

    return exists.tell(get, args[0])
