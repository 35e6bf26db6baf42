"""`rless image exists`: tell by the exit code whether there is such an image."""

from __future__ import annotations

from rootless.cli import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = exists.verb("image")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Look it up; print nothing."""
    from rootless.engine.images.images import find

    return exists.tell(find, args[0])
