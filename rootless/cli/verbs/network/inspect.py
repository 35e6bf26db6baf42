"""`rless network inspect`: all about networks, as JSON or by a template."""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "network inspect",
    "[OPTIONS] NETWORK [NETWORK...]",
    (
        (
            "Options",
            (
                ("--format -f", "FORMAT", "value", "format", "text", "json, or a Go template"),
                ("--verbose -v", "", "flag", "accepted", "boolean", "Accepted without effect"),
            ),
        ),
    ),
    (("--scope", "SCOPE", "there is no cluster", ""),),
    least=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what is there of the networks that are there; report the others."""
    from rootless.cli.verbs.system.inspect import show
    from rootless.engine.query.inspect import inspect_network

    return show(args, inspect_network, values.get("format"))
