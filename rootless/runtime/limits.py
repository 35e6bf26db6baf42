"""Which limits a config asks for, at all.

A module of its own, as `exec` asks only that: what sets limits is three times as much to load as
what starts its process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def asked(resources: dict[str, Any]) -> dict[str, Any]:
    """Return what of `linux.resources` asks for something: no device rules, no empty objects."""
    return {name: value for name, value in resources.items() if name != "devices" and _says(value)}


def _says(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says(item) for item in value.values())
    return value is not None and value is not False and value not in ([], "")
