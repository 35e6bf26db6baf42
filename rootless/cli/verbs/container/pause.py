"""`rless pause`: halt all processes of containers."""

from __future__ import annotations

from rootless import log
from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("pause", "CONTAINER [CONTAINER...]", least=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Halt containers; print each name, and once why it had to be done process by process."""
    from rootless.engine.manage import pause
    from rootless.engine.state import container

    said = False

    def halt(name: str) -> None:
        nonlocal said
        why = pause.pause(container.find(name))
        streams.write(f"{name}\n")
        if why is not None and not said:
            said = True
            log.warn(f"{why}: each process got SIGSTOP instead, which it may notice")

    return streams.each(args, halt)
