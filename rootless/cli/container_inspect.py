"""`rless container inspect`."""

from __future__ import annotations

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("container inspect", "", ())


def main(values: dict[str, Any], args: list[str]) -> int:
    """Refuse: a stub."""
    raise RlessError(
        "the verb container inspect is not supported: not built yet", "see 'rless --help'"
    )
