r"""The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/new}`.

`*` is any text, `?` any character, also a newline; `\*` `\?` `\\` `\}` `\/` are the characters
themselves. Brackets are plain text. No user's text reaches `re`: a pattern is cut at its stars, and
each piece has one length. A piece without `?` is found by `str.find`, another one in one pass over
the text with a bit for each of its characters. So the time is bounded by the length of the text.

Source: BuildKit frontend/dockerfile/shell/lex.go; POSIX.1-2017, Shell Command Language 2.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH_LIMIT = 4096  # characters of a pattern
_ANY = ""  # stands for `?` in a piece


class _Piece:
    """Characters without a star between them."""

    def __init__(self, chars: list[str]) -> None:
        self.length = len(chars)
        self.text = None if _ANY in chars else "".join(chars)
        self.chars = chars

    def at(self, value: str, start: int) -> bool:
        """Tell whether the piece stands at an offset."""
        if self.text is not None:
            return value.startswith(self.text, start)
        if start < 0 or start + self.length > len(value):
            return False
        return all(char in (_ANY, value[start + index]) for index, char in enumerate(self.chars))

    def starts(self, value: str, start: int) -> Iterator[int]:
        """Yield the offsets from `start` on at which the piece stands, in one pass."""
        masks: dict[str, int] = {}
        any_char = 0
        for index, char in enumerate(self.chars):
            if char == _ANY:
                any_char |= 1 << index
            else:
                masks[char] = masks.get(char, 0) | 1 << index
        # Bit n: the first n + 1 characters of the piece stand before here (Shift-And).
        state, whole = 0, 1 << (self.length - 1)
        for index in range(start, len(value)):
            state = ((state << 1) | 1) & (masks.get(value[index], 0) | any_char)
            if state & whole:
                yield index - self.length + 1

    def first(self, value: str, start: int) -> int:
        """Return the first offset from `start` on, or -1."""
        if self.text is not None:
            return value.find(self.text, start)
        return next(self.starts(value, start), -1)

    def last(self, value: str, start: int) -> int:
        """Return the last offset that is not before `start`, or -1."""
        # From the other end: only find() is linear, rfind() is not.
        found = self.mirrored().first(value[start:][::-1], 0)
        return -1 if found < 0 else len(value) - found - self.length

    def mirrored(self) -> _Piece:
        """Return the piece for a value that is written backwards."""
        return _Piece(self.chars[::-1])


class Pattern:
    """A pattern of an expansion.

    Raises:
        DockerfileError: an escape of another character, or too long a pattern.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_LIMIT:
            raise DockerfileError(f"a pattern is longer than {LENGTH_LIMIT} characters")
        pieces: list[list[str]] = [[]]
        chars = iter(text)
        for char in chars:
            if char == "*":
                if pieces[-1] or len(pieces) == 1:
                    pieces.append([])
            elif char == "?":
                pieces[-1].append(_ANY)
            elif char == "\\":
                escaped = next(chars, "")
                if escaped not in tuple("*?\\}/"):
                    raise DockerfileError(f"invalid escape \\{escaped} in the pattern {text!r}")
                pieces[-1].append(escaped)
            else:
                pieces[-1].append(char)
        self._pieces = [_Piece(piece) for piece in pieces]

    def without_prefix(self, value: str, longest: bool) -> str:
        """Return `value` without what the pattern matches at its start."""
        if not self._pieces[0].at(value, 0):
            return value
        end = self._end(value, 0, longest)
        return value if end < 0 else value[end:]

    def without_suffix(self, value: str, longest: bool) -> str:
        """Return `value` without what the pattern matches at its end."""
        backwards = Pattern("")
        backwards._pieces = [piece.mirrored() for piece in reversed(self._pieces)]
        return backwards.without_prefix(value[::-1], longest)[::-1]

    def replaced(self, value: str, new: str, every: bool, limit: int) -> str:
        """Return `value` with the first or every match, each the longest, replaced by `new`.

        Raises:
            DockerfileError: the result would have more than `limit` characters.
        """
        if len(self._pieces) == 1:
            spans = self._spans(value, every, limit + 1)
        else:
            # With a star the longest match reaches the last place where one can end.
            start = self._pieces[0].first(value, 0)
            end = -1 if start < 0 else self._end(value, start, True)
            spans = [] if end < 0 else [(start, end)]
        size = len(value) + sum(len(new) - (end - start) for start, end in spans)
        if size > limit:
            raise DockerfileError(f"a value would be longer than {limit} characters")
        parts, at = [], 0
        for start, end in spans:
            parts += [value[at:start], new]
            at = end
        return "".join([*parts, value[at:]])

    def _spans(self, value: str, every: bool, most: int) -> list[tuple[int, int]]:
        """Return where the one piece stands, in places that do not overlap."""
        piece = self._pieces[0]
        if not piece.length:
            return [(at, at) for at in range(len(value) + 1 if every else 1)]
        spans: list[tuple[int, int]] = []
        if piece.text is not None:
            start = value.find(piece.text)
            while start >= 0 and len(spans) < (most if every else 1):
                spans.append((start, start + piece.length))
                start = value.find(piece.text, start + piece.length)
            return spans
        at = 0
        for start in piece.starts(value, 0):
            if start >= at:
                at = start + piece.length
                spans.append((start, at))
                if not every:
                    break
        return spans

    def _end(self, value: str, start: int, longest: bool) -> int:
        """Return where a match ends whose first piece stands at `start`, or -1."""
        at = start + self._pieces[0].length
        if len(self._pieces) == 1:
            return at
        for piece in self._pieces[1:-1]:
            found = piece.first(value, at)
            if found < 0:
                return -1
            at = found + piece.length
        tail = self._pieces[-1]
        if not tail.length:
            return len(value) if longest else at
        found = tail.last(value, at) if longest else tail.first(value, at)
        return -1 if found < 0 else found + tail.length
