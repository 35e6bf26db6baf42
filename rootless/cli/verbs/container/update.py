"""`rless update`: change what containers were made with."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.options import GROUPS, REFUSED
from rootless.cli.parse import Verb
from rootless.engine.resources import UPDATABLE
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Docker's update has these, too; they are refused as `run` refuses them.
_REFUSED = "--cpu-rt-period --cpu-rt-runtime --kernel-memory".split()

VERB = Verb(
    "update",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        (
            "Options",
            (
                ("--restart", "POLICY", "value", "restart", "container.update.policy",
                 "no, on-failure[:MAX], always or unless-stopped"),
            ),
        ),
        ("Limits", tuple(row for _, rows in GROUPS for row in rows if row[3] in UPDATABLE)),
    ),
    tuple(row for row in REFUSED if row[0].split()[0] in _REFUSED),
    least=1,
)  # fmt: skip


def policy(value: str) -> dict[str, object]:
    """Return a restart policy: its name and the most restarts (0: any number)."""
    name, colon, limit = value.partition(":")
    if name not in ("no", "on-failure", "always", "unless-stopped"):
        raise ValueError("is not a restart policy")
    if colon and name != "on-failure":
        raise ValueError("has a maximum, which is for on-failure")
    if colon and not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        raise ValueError("has a maximum that is not a whole number")
    return {"name": name, "max": int(limit or 0)}


def main(values: dict[str, Any], args: list[str]) -> int:
    """Change containers one by one; print the name of each."""
    from rootless.engine.manage.update import update

    if not values:
        raise RlessError("'rless update' needs a flag: what shall change", VERB.see_help(), 1)
    return streams.outcomes(update(args, values))
