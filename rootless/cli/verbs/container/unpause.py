"""`rless unpause`: let paused containers go on."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("unpause", "CONTAINER [CONTAINER...]", least=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Let containers go on; print each name."""
    from rootless.engine.manage import pause
    from rootless.engine.state import container

    def go_on(name: str) -> None:
        pause.unpause(container.find(name))
        streams.write(f"{name}\n")

    return streams.each(args, go_on)
