"""`run --replace`, `create --replace`: remove the container that has the name of the new one."""

from __future__ import annotations

from rootless.engine.manage.remove import remove
from rootless.engine.state.container import find
from rootless.errors import RlessError


def remove_namesake(name: str) -> None:
    """Remove the container of this name, even if it runs; none is no error.

    Its anonymous volumes stay, as with `rm`.

    Raises:
        RlessError: another command is removing or starting it.
    """
    try:
        container = find(name)
    except RlessError:
        return
    if container.facts["name"] != name:
        return  # one whose id begins with the name
    for _, error in remove([container.id], force=True):
        if error is not None and not error.message.startswith("no such container"):
            raise error
