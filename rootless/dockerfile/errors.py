"""What is wrong with a Dockerfile, on which line, and how its text is shown."""

from __future__ import annotations

from rootless.errors import INVALID, RlessError, escape

_CONTEXT = 2  # lines shown before and after those in question


class DockerfileError(RlessError):
    """Report a mistake in a Dockerfile.

    Args:
        line: the first line in question, counted from 1; 0 if no line is known.
        last: the last one; 0 means the same as `line`.

    Attributes:
        where: what the lines are counted in.
    """

    where = "Dockerfile"

    def __init__(self, message: str, hint: str | None = None, line: int = 0, last: int = 0) -> None:
        where = f"{self.where} line {line}: " if line else ""
        super().__init__(where + escape(message), hint and escape(hint), 1, INVALID)
        self.bare = message
        self.line = line
        self.last = last or line

    def at(self, line: int, last: int = 0) -> DockerfileError:
        """Return the same mistake with its lines, unless it has some already."""
        return self if self.line else type(self)(self.bare, self.hint, line, last)


def show_lines(text: str, line: int, last: int = 0) -> list[str]:
    """Return the lines of a text around some of them, numbered, those marked with `>>>`.

    Nothing in the result is obeyed by a terminal.
    """
    lines = text.split("\n")
    last = max(line, last)
    first_shown, last_shown = max(1, line - _CONTEXT), min(len(lines), last + _CONTEXT)
    width = len(str(last_shown))
    shown = []
    for number in range(first_shown, last_shown + 1):
        mark = ">>>" if line <= number <= last else "   "
        content = lines[number - 1].removesuffix("\r").expandtabs()
        shown.append(f"{number:>{width}} | {mark} {escape(content)}".rstrip())
    return shown


def nearest(name: str, known: object) -> str | None:
    """Return a hint that names the nearest known name, or None if none is near.

    Args:
        known: names to choose from, as any iterable of str.
    """
    from difflib import get_close_matches

    names = list(known) if isinstance(known, (list, tuple, dict, set, frozenset)) else []
    found = get_close_matches(name[:100], names, 1, 0.6)
    return f"did you mean {found[0]}?" if found else None
