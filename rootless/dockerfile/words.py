r"""Words of a Dockerfile: where a line is split, and what stands for quotes and variables.

    split(text, escape)                      words, with their quotes still on
    Expander(variables, escape).word(text)   one word without quotes, with values for variables
    Expander(...).words(text)                the same, split at blanks after that (EXPOSE)
    Expander(...).unset                      names that were used and had no value

An unset variable is empty and no error. Expansion is bounded: a value has at most 1 MiB, `${...}`
are at most 100 deep, and the time is linear in what is read and written (`patterns.py`).

Source: docs.docker.com/reference/dockerfile (environment replacement); BuildKit
frontend/dockerfile/shell/lex.go, parser/line_parsers.go.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

BLANKS = " \t\n\r\v\f"
VALUE_LIMIT = 1 << 20  # characters of a value
WORK_LIMIT = 4 << 20  # characters that the patterns of one instruction are looked for in
DEPTH_LIMIT = 100  # of `${...}` in `${...}`

_NAME = re.compile(r"[0-9]+|[@*#?$!-]|[^\W\d]\w*")


@lru_cache(2)
def _word(escape: str) -> re.Pattern[str]:
    """Return the pattern of one word: plain characters, escaped ones, and what is in quotes.

    No part of it can fail once it has begun, so nothing is tried twice.
    """
    e = re.escape(escape)
    double = rf'"(?:[^"{e}]+|{e}(?s:.))*(?:"|({e})?\Z)'
    return re.compile(rf"(?:[^\s'\"{e}]+|{e}(?s:.)|'[^']*(?:'|\Z)|{double}|({e})\Z)+")


def split(text: str, escape: str = "\\") -> list[str]:
    """Split at blanks outside of quotes; quotes and escape characters stay.

    An escape character at the very end vanishes.
    """
    words = []
    for match in _word(escape).finditer(text):
        word = match[0][:-1] if match[1] or match[2] else match[0]
        if word:
            words.append(word)
    return words


def unquote(text: str) -> tuple[str, bool]:
    r"""Return a here-document's name without quotes and `\`, and whether it had quotes.

    Raises:
        DockerfileError: a quote is not closed.
    """
    expander = Expander({}, "\\", variables_stay=True)
    return expander.word(text), expander.had_quotes


class Expander:
    """Replace variables and take off quotes.

    Args:
        variables: the values; a name that is not there is unset.
        escape: the escape character of the file.
        quotes: False: quotes are plain text, as in the body of a here-document.
        variables_stay: True: `$` is plain text too.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        escape: str = "\\",
        quotes: bool = True,
        variables_stay: bool = False,
    ) -> None:
        self.variables = variables
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self.had_quotes = False
        self._escape = escape
        special = escape + ("'\"" if quotes else "") + ("" if variables_stay else "$")
        # Runs of characters that mean nothing, for each character that would end the word.
        self._plain = {
            stop: re.compile(f"[^{re.escape(special + stop)}]+") for stop in ("", "}", "/")
        }
        self._double = re.compile(f'[^{re.escape(escape)}"{"" if variables_stay else "$"}]+')
        self._special = special
        self._text = ""
        self._at = 0
        self._depth = 0
        self._work = 0
        # The pieces of the outermost level, and whether blanks in them split words.
        self._top: list[tuple[str, bool]] | None = None

    def word(self, text: str) -> str:
        """Return one word for `text`, which is never split.

        Raises:
            DockerfileError: a quote or brace is not closed, a bad substitution, or `${name?}`.
        """
        self._text, self._at, self._depth = text, 0, 0
        try:
            return self._until("", raw=False)
        except DockerfileError as error:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise DockerfileError(f"{error.bare}, in {shown!r}", error.hint) from error

    def words(self, text: str) -> list[str]:
        """Return the words for `text`: blanks of values split it too, unless they are quoted."""
        self._top = []
        self.word(text)
        pieces, self._top = self._top, None
        words: list[str] = []
        is_open = False  # the last word goes on
        for piece, is_split in pieces:
            fields = re.split(r"\s+", piece) if is_split else [piece]
            for index, field in enumerate(fields):
                is_open = is_open and not index
                if field and is_open:
                    words[-1] += field
                elif field:
                    words.append(field)
                is_open = is_open or bool(field)
        return words

    # -- the text from here on -----------------------------------------------------------------

    def _until(self, stop: str, raw: bool) -> str:
        """Return what stands for the text up to the character `stop`, and go behind that.

        Args:
            raw: escape characters stay: what is read is a pattern.
        """
        parts: list[str] = []
        size = 0
        text, plain = self._text, self._plain[stop]
        while self._at < len(text):
            start = self._at
            char = text[start]
            if char == stop:
                self._at += 1
                return "".join(parts)
            if match := plain.match(text, start):
                self._at = match.end()
                part = match[0]
            elif char == "$":
                part = self._dollar()
            elif char == self._escape:
                part = text[start + 1 : start + 2]
                self._at += 2
                if raw:
                    part = char + part
            else:
                self.had_quotes = True
                part = self._single_quoted() if char == "'" else self._double_quoted(raw)
            parts.append(part)
            if self._top is not None and not stop:
                self._top.append((part, char == "$" or char not in self._special))
            size += len(part)
            if size > VALUE_LIMIT:
                raise DockerfileError(f"a value is longer than {VALUE_LIMIT} characters")
        if stop:
            raise DockerfileError(f"a {stop} is missing")
        return "".join(parts)

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise DockerfileError("a single quote is not closed")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double_quoted(self, raw: bool) -> str:
        parts: list[str] = []
        size = 0
        self._at += 1
        text = self._text
        while self._at < len(text):
            start = self._at
            char = text[start]
            if char == '"':
                self._at += 1
                return "".join(parts)
            if match := self._double.match(text, start):
                self._at = match.end()
                part = match[0]
            elif char == "$":
                part = self._dollar()
            else:
                following = text[start + 1 : start + 2]
                escaped = following in ('"', "$", self._escape)
                part = following if escaped else char
                self._at += 2 if escaped else 1
                if raw:
                    part = char + part
            parts.append(part)
            size += len(part)
            if size > VALUE_LIMIT:
                raise DockerfileError(f"a value is longer than {VALUE_LIMIT} characters")
        raise DockerfileError("a double quote is not closed")

    # -- variables -------------------------------------------------------------------------------

    def _dollar(self) -> str:
        """Return what stands for the `$` here and what belongs to it."""
        text = self._text
        self._at += 1
        if text[self._at : self._at + 1] != "{":
            name = self._name()
            return self._value(name) or "" if name else "$"
        self._at += 1
        if self._at == len(text):
            raise DockerfileError("a } is missing")
        name = self._name()
        if not name:
            raise DockerfileError("bad substitution")
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise DockerfileError(f"substitutions are nested more than {DEPTH_LIMIT} deep")
        result = self._substitute(name)
        self._depth -= 1
        return result

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _value(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.unset if value is None else self.used).add(name)
        return value

    def _substitute(self, name: str) -> str:
        """Return the value of `${name` with the operator that comes now, up to its brace."""
        operator = self._text[self._at : self._at + 1]
        self._at += 1
        if operator == "}":
            return self._value(name) or ""
        if operator == "/":
            return self._replace(name)
        if operator in ("#", "%") and operator:
            return self._trim(name, operator)
        colon = operator == ":"
        if colon:
            operator = self._text[self._at : self._at + 1]
            self._at += 1
        if not operator:
            raise DockerfileError("a } is missing")
        if operator not in ("-", "+", "?"):
            shown = ":" * colon + operator
            raise DockerfileError(f"unsupported modifier {shown} of ${name}")
        word = self._until("}", raw=False)
        value = self._value(name)
        is_set = value is not None and not (colon and not value)
        if operator == "+":
            return word if is_set else ""
        if is_set:
            return value or ""
        if operator == "-":
            return word
        state = "unset" if value is None else "empty"
        raise DockerfileError(f"{name}: {word or f'is not allowed to be {state}'}")

    def _trim(self, name: str, operator: str) -> str:
        word = self._until("}", raw=True)
        longest = word.startswith(operator)
        pattern = Pattern(word[longest:])
        value = self._value(name) or ""
        self._spend(value)
        if operator == "#":
            return pattern.without_prefix(value, longest)
        return pattern.without_suffix(value, longest)

    def _replace(self, name: str) -> str:
        every = self._text.startswith("/", self._at)
        self._at += every
        pattern = self._until("/", raw=True)
        new = self._until("}", raw=True)
        value = self._value(name)
        if value is None:
            return ""
        self._spend(value)
        return Pattern(pattern).replaced(value, new, every, VALUE_LIMIT)

    def _spend(self, value: str) -> None:
        """Count the text that patterns of this expander are looked for in."""
        self._work += len(value)
        if self._work > WORK_LIMIT:
            raise DockerfileError(f"patterns are looked for in more than {WORK_LIMIT} characters")
