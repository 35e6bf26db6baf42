"""`rless service stop`: end the service, and what starts it."""

from __future__ import annotations

from rootless import log
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("service stop", "[SOCKET]", most=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """End it; containers go on."""
    from rootless.service import listener

    path = listener.path_of(args[0] if args else None)
    if not listener.stop(path):
        log.warn(f"nobody listens at {path}")
    return 0
