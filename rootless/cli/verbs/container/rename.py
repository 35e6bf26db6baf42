"""`rless rename`: give a container another name."""

from __future__ import annotations

from rootless.cli.flags.values import container_name
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("rename", "CONTAINER NAME", least=2, most=2)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Rename a container, running or not."""
    from rootless.engine.manage.rename import rename

    try:
        name = container_name(args[1])
    except ValueError as error:
        raise RlessError(f"the name {args[1]!r} {error}", exit_code=1) from None
    if name is None:
        raise RlessError("the new name is empty", VERB.see_help(), 1)
    rename(args[0], name)
    return 0
