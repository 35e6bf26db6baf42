"""What is wrong with a definition file, and on which line."""

from __future__ import annotations

from rootless.errors import INVALID, RlessError, escape


class DefinitionError(RlessError):
    """Report a mistake in a definition file.

    Args:
        line: counted from 1; 0 if no line is known.
    """

    def __init__(self, message: str, hint: str | None = None, line: int = 0) -> None:
        where = f"definition file line {line}: " if line else "definition file: "
        super().__init__(where + escape(message), hint and escape(hint), 1, INVALID)
        self.line = line
