"""`rless doctor`: check this host."""

from __future__ import annotations

from typing import Any

from rootless.cli.parse import Verb

VERB = Verb(
    "doctor",
    "[OPTIONS]",
    (("Options", (("--json", "", "flag", "json", "boolean", "Print the facts as JSON"),)),),
    most=0,
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print each fact with its meaning and its fix; return 0 only if `run` would work."""
    from rootless.host import doctor

    return doctor.main(bool(values.get("json")))
