"""`rless restart`: stop containers and start them again."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.cli.verbs.container.stop import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("restart", "[OPTIONS] CONTAINER [CONTAINER...]", OPTIONS, least=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Restart containers; print the name of each that runs again."""
    from rootless.engine.manage.stop import restart

    return streams.outcomes(restart(args, values.get("timeout"), values.get("signal")))
