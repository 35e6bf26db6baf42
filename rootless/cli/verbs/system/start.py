"""`rless system start`: start the containers that are to be there after a boot."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("system start", "", most=0)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Start what has the restart policy always, or unless-stopped and nobody stopped it."""
    from rootless.engine.manage.systemd_units import restart_after_boot

    return streams.outcomes(restart_after_boot())
