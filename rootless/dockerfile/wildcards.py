r"""Wildcards of file names: those of Go's `filepath.Match`, and `**`.

`*` is any text, `?` a character, `[a-z]` and `[^a-z]` one of a class, `\x` is x itself. None of
them crosses a `/`. With `globstar`, `**/` is any number of directories, also none, and a final `**`
is anything. A pattern is compiled once. The usual shapes are answered by comparing strings, the
others in one pass over the path with a bit for each part of the pattern, so the time is linear.

Source: pkg.go.dev/path/filepath#Match; github.com/moby/patternmatcher.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What parts of a pattern are called that are neither text nor a class.
_ANY, _STAR, _DIRECTORIES, _IN_DIRECTORIES, _REST = "any", "star", "directories", "within", "rest"
_MAGIC = re.compile(r"[*?\[\\]")


class BadPatternError(ValueError):
    """Report a pattern that is wrong: an unclosed class, or nothing after a backslash."""


class _Class:
    """A class as `[a-z]`."""

    def __init__(self, ranges: list[tuple[str, str]], negated: bool) -> None:
        self._ranges = ranges
        self._negated = negated

    def __contains__(self, char: str) -> bool:
        inside = any(first <= char <= last for first, last in self._ranges)
        return char != "/" and inside != self._negated


class _Literal(str):
    """Characters that stand for themselves."""


def has_wildcards(pattern: str) -> bool:
    """Tell whether a pattern is more than a name (a backslash counts)."""
    return _MAGIC.search(pattern) is not None


class Wildcard:
    """A compiled pattern.

    Args:
        globstar: `**` crosses directories, as in .dockerignore; else it is the same as `*`.

    Raises:
        BadPatternError: the pattern is wrong.
    """

    def __init__(self, pattern: str, globstar: bool = False) -> None:
        tokens = list(_tokens(pattern, globstar))
        self.matches: Callable[[str], bool]
        if globstar and re.fullmatch(r"\*\*[^/*?\[\\][^*?\[\\]*", pattern):
            # Docker's matcher takes **.log for "ends in .log", and people write that.
            self.matches = lambda path: path.endswith(pattern[2:])
        else:
            self.matches = _simple(tokens) or _Automaton(tokens).matches


def _tokens(pattern: str, globstar: bool) -> Iterator[_Literal | _Class | str]:
    """Yield the parts of a pattern: texts, classes, and the names of the wildcards."""
    literal = ""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\":
            if at == len(pattern):
                raise BadPatternError("nothing stands after a backslash")
            literal += pattern[at]
            at += 1
            continue
        if char not in "*?[":
            literal += char
            continue
        if literal:
            yield _Literal(literal)
            literal = ""
        if char == "?":
            yield _ANY
        elif char == "[":
            found, at = _class(pattern, at)
            yield found
        else:
            if not (globstar and pattern.startswith("*", at)):
                yield _STAR
                continue
            at += 1
            at += pattern.startswith("/", at)
            yield _DIRECTORIES if at < len(pattern) else _REST
    if literal:
        yield _Literal(literal)


def _class(pattern: str, at: int) -> tuple[_Class, int]:
    """Return the class that begins after the `[` before `at`, and where the pattern goes on."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (pattern.startswith("]", at) and ranges):
        first, at = _class_char(pattern, at)
        last = first
        if pattern.startswith("-", at):
            last, at = _class_char(pattern, at + 1)
        ranges.append((first, last))
    return _Class(ranges, negated), at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char in ("-", "]"):
        raise BadPatternError(f"a class has a {char} in a wrong place")
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    if not char:
        raise BadPatternError("a class has no closing ]")
    return char, at + 1


def _simple(tokens: list[_Literal | _Class | str]) -> Callable[[str], bool] | None:
    """Return a comparison for the usual shapes, None for another one."""
    shape = tuple("text" if isinstance(token, _Literal) else token for token in tokens)
    texts = [str(token) for token in tokens if isinstance(token, _Literal)]
    if shape in ((), ("text",)):
        whole = "".join(texts)
        return lambda path: path == whole
    if shape == (_REST,):
        return lambda path: True
    if shape == (_DIRECTORIES, "text"):
        return lambda path: path == texts[0] or path.endswith("/" + texts[0])
    if shape == ("text", _REST):
        return lambda path: path.startswith(texts[0])
    in_any_directory = shape[:1] == (_DIRECTORIES,) and "/" not in "".join(texts)
    if in_any_directory:
        shape = shape[1:]
    if shape not in ((_STAR,), ("text", _STAR), (_STAR, "text"), ("text", _STAR, "text")):
        return None
    before = texts[0] if shape[0] == "text" else ""
    after = texts[-1] if shape[-1] == "text" else ""

    def is_between(path: str) -> bool:
        if in_any_directory:
            path = path[path.rfind("/") + 1 :]
        end = len(path) - len(after)
        return (
            end >= len(before)
            and path.startswith(before)
            and path.endswith(after)
            and "/" not in path[len(before) : end]
        )

    return is_between


class _Automaton:
    """Any pattern, as a state machine that is in several states at once, a bit each.

    Bit n is set while the text so far is matched by the first n parts; the last bit is the whole.
    """

    def __init__(self, tokens: list[_Literal | _Class | str]) -> None:
        parts: list[_Class | str] = []
        for token in tokens:
            if isinstance(token, _Literal):
                parts += list(token)
            else:
                parts += [token, _IN_DIRECTORIES] if token == _DIRECTORIES else [token]
        self._end = 1 << len(parts)
        self._bits: dict[str, int] = {}
        self._classes: list[tuple[_Class, int]] = []
        for index, part in enumerate(parts):
            if isinstance(part, _Class):
                self._classes.append((part, 1 << index))
            else:
                self._bits[part] = self._bits.get(part, 0) | 1 << index
        self._begun = self._bits.get(_DIRECTORIES, 0)
        self._within = self._bits.get(_IN_DIRECTORIES, 0)
        everything = self._within | self._bits.get(_REST, 0)
        # What may take no character at all, and what stays after each one but a slash, or any.
        self._empty = self._begun | self._bits.get(_STAR, 0) | self._bits.get(_REST, 0)
        self._stay = everything | self._bits.get(_STAR, 0)
        self._stay_at_slash = everything
        self._steps: dict[str, int] = {}

    def matches(self, path: str) -> bool:
        """Tell whether the pattern matches the whole path."""
        state = self._closed(1)
        for char in path:
            step = self._steps.get(char)
            if step is None:
                step = self._steps[char] = self._step(char)
            stay = self._stay_at_slash if char == "/" else self._stay
            state = self._closed((state & step) << 1 | state & stay)
            if not state:
                return False
        return bool(state & self._end)

    def _step(self, char: str) -> int:
        """Return the parts that end with this character."""
        step = self._bits.get(char, 0)
        if char == "/":
            return step | self._within
        for part, bit in self._classes:
            step |= bit if char in part else 0
        return step | self._bits.get(_ANY, 0)

    def _closed(self, state: int) -> int:
        """Return the states with those behind parts that may be empty."""
        while new := ((state & self._empty) << 1 | (state & self._begun) << 2) & ~state:
            state |= new
        return state
