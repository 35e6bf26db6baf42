"""`rless healthcheck run`: run the health check of a container now."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("healthcheck run", "CONTAINER", least=1, most=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Run it; return 0 if it succeeded, 1 if it failed, as Podman does.

    Raises:
        RlessError: it could not be run; with exit code 125, so that this is no failed check.
    """
    from rootless.engine.exec import healthcheck

    try:
        result = healthcheck.run_now(args[0])
    except RlessError as error:
        raise RlessError(error.message, error.hint) from error
    if result["exit_code"] == 0:
        return 0
    streams.write(f"{healthcheck.UNHEALTHY}\n")
    return 1
