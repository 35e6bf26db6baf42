"""The help texts of the front, from its tables."""

from __future__ import annotations

import sys

from rootless.cli.fronts.apptainer import table
from rootless.cli.parse import help_text
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.cli.fronts.apptainer.table import FrontVerb


def verbs() -> Iterator[FrontVerb]:
    """Yield all verbs, those of two words by both."""
    seen = set()
    for module in table.MODULES.values():
        if module not in seen:
            seen.add(module)
            path = f"rootless.cli.fronts.apptainer.{module}"
            __import__(path)
            yield from sys.modules[path].VERBS.values()


def of_command(name: str, words: list[str]) -> str:
    """Return the help of a verb, or of all.

    Args:
        name: of the front.
        words: the verb, and what follows it.

    Raises:
        RlessError: there is no such verb.
    """
    known = {verb.name: verb for verb in verbs()}
    for size in (2, 1):
        if verb := known.get(" ".join(words[:size])):
            return _of_verb(name, verb)
    group = [verb for verb in known.values() if words and verb.name.split()[0] == words[0]]
    if words and not group:
        raise RlessError(f"unknown command: {words[0]}", f"see '{name} --help'")
    lines = [f"Usage: {name} [GLOBAL OPTIONS] COMMAND [ARG...]", ""]
    lines += [f"  {verb.name:<18}{verb.about}" for verb in group or known.values()]
    if not words:
        lines += ["", *_rows(table.GLOBAL)]
    return "\n".join([*lines, ""])


def _of_verb(name: str, verb: FrontVerb) -> str:
    lines = [f"Usage: {name} {verb.name} {verb.usage}", "", verb.about]
    for group in verb.groups:
        lines += ["", *_rows(group)]
    return "\n".join([*lines, ""])


def _rows(group: tuple[str, tuple[tuple[str, ...], ...]]) -> list[str]:
    title, rows = group
    lines = [f"{title}:"]
    for row in rows:
        names = ", ".join(sorted(row[0].split(), key=len))
        lines += [f"  {names} {row[1]}".rstrip(), f"      {help_text(row)}"]  # type: ignore[arg-type]
    return lines
