"""`rless tag`: give an image a further name."""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("tag", "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", least=2, most=2, failure=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Name an image; nothing is printed."""
    from rootless.engine.images.images import tag

    tag(args[0], args[1])
    return 0
