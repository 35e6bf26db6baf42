"""`rless service uninstall`: remove the units of the service."""

from __future__ import annotations

from rootless import log
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("service uninstall", "", most=0)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Stop and remove them; containers go on."""
    from rootless.service import listener, units

    if not units.uninstall():
        log.warn("the units are not installed")
    units.unlink(listener.default_socket())
    return 0
