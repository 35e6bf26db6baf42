"""Answer whether an object exists by the exit code, as Podman's `exists` does."""

from __future__ import annotations

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING = 1


def verb(kind: str) -> Verb:
    """Return the verb `exists` of a kind of objects, such as "image"."""
    return Verb(f"{kind} exists", kind.upper(), least=1, most=1)


def tell(find: Callable[[str], object], name: str) -> int:
    """Return 0 if `find` finds the object, 1 if there is none.

    Raises:
        RlessError: anything else, with exit code 125: then nobody knows.
    """
    try:
        find(name)
    except RlessError as error:
        if error.message.startswith("no such"):
            return _MISSING
        raise RlessError(error.message, error.hint) from error
    return 0
