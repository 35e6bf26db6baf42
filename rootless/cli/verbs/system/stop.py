"""`rless system stop`: stop the containers that `rless system start` starts again."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("system stop", "", most=0)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Stop them; it does not count as stopped by the user."""
    from rootless.engine.manage.systemd_units import stop_for_shutdown

    return streams.outcomes(stop_for_shutdown())
