"""`rless system reset`: remove everything that rless has stored."""

from __future__ import annotations

from rootless.cli.parse import Verb
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "system reset",
    "[OPTIONS]",
    (("Options", (("--force -f", "", "flag", "force", "boolean", "Do not ask"),)),),
    most=0,
    failure=1,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Ask, and remove; say what of the storage's directory is not from rless, and stays."""
    from rootless import paths
    from rootless.cli.confirm import confirmed
    from rootless.engine.manage.reset import reset

    storage = escape(paths.storage_root())
    warning = f"""WARNING! This will remove:
  - all containers, also those that run
  - all images
  - all networks
  - all volumes
  - the storage directory: {storage}
"""
    if not values.get("force") and not confirmed(warning):
        return 0  # as Podman
    if others := reset():
        from rootless import log

        names = ", ".join(escape(name) for name in others[:5])
        log.warn(f"{storage} stays: it has files that are not from rless: {names}")
    return 0
