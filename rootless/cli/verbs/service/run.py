"""`rless service run`: run a command whose containers are those of rless."""

from __future__ import annotations

import os

from rootless.cli.parse import Verb
from rootless.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "service run",
    "[--] COMMAND [ARG...]",
    least=1,
    interspersed=False,
    examples=(("Start a project of docker compose", "rless service run docker compose up"),),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Become the command, with the variables of `rless service env`."""
    from rootless.service import listener

    path = listener.path_of(None)
    listener.ensure(path)
    try:
        os.execvpe(args[0], args, {**os.environ, **listener.variables(path)})
    except OSError as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_CANNOT_EXECUTE
        raise RlessError(f"cannot run {args[0]}: {error.strerror}", exit_code=code) from error
