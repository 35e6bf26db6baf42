"""`rless help [VERB]`."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb

VERB = Verb("help", "[VERB]", most=2)


def main(values: dict[str, object], args: list[str]) -> int:
    """Print the help of a verb, or of rless."""
    from rootless.cli.verb_table import ALIASES, find, group_help, help_text

    if not args:
        streams.write(help_text())
        return 0
    if args[0] in ALIASES and len(args) == 1:
        streams.write(group_help(args[0]))
        return 0
    from rootless.cli.click_app import help_of

    streams.write(help_of(find(args)[0]))
    return 0
