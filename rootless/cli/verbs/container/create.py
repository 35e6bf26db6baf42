"""`rless create`: make a container that `start` will run."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.options import CREATE as VERB
from rootless.cli.verbs.container.run import as_typed, build, room_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["VERB", "main"]


def main(values: dict[str, Any], args: list[str]) -> int:
    """Create a container; print its id."""
    from rootless.engine.start.create import create

    request = as_typed(build(values, args, VERB))
    context = create(request, make_room=room_for(request))
    context.container.remove_run_record()
    streams.write(f"{context.container.id}\n")
    return 0
