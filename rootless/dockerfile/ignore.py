"""`.dockerignore`: which files of a context are left out.

    rules = IgnoreRules.parse(data)            or IgnoreRules(["*", "!src"]), as for --exclude
    state = rules.root                         nothing is left out of the root itself
    state = rules.enter(state, "src")          for each directory and file, with its parent's state
    state.is_excluded
    rules.may_return(state, "src")             False: nothing below needs to be looked at

A pattern is matched against the whole path from the context's root. One that matches a directory
counts for all that is below it, so each state has which patterns matched. Of those that match the
last one decides.

Source: docs.docker.com/build/concepts/context (.dockerignore files);
github.com/moby/patternmatcher.
"""

from __future__ import annotations

import posixpath

from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.wildcards import BadPatternError, Wildcard
from rootless.frozen import Frozen

SIZE_LIMIT = 1 << 20  # bytes of a file
_SPACE = " \t\r\v\f"


class IgnoreError(DockerfileError):
    """Report a mistake in a .dockerignore; its text is not shown, the file may be any."""

    where = ".dockerignore"


class State(Frozen):
    """What the patterns say about a path; `matched` has a bit for each that matches it."""

    is_excluded: bool
    matched: int


class _Rule:
    """One pattern."""

    def __init__(self, pattern: str, line: int) -> None:
        self.is_negated = pattern.startswith("!")
        text = pattern.removeprefix("!")
        if not text:
            raise IgnoreError("a lone !", "write a pattern after it", line)
        try:
            self.matches = Wildcard(text, globstar=True).matches
            # What a path below a directory must match first, up to a part that may be several.
            self._parts: list[Wildcard | None] = [
                None if "**" in part else Wildcard(part) for part in text.split("/")
            ]
        except BadPatternError as error:
            raise IgnoreError(str(error), None, line) from error

    def may_match_below(self, directory: list[str]) -> bool:
        """Tell whether a path can match that is below the directory with these parts."""
        for part, name in zip(self._parts, directory, strict=False):
            if part is None:
                return True
            if not part.matches(name):
                return False
        return None in self._parts[: len(directory) + 1] or len(self._parts) > len(directory)


class IgnoreRules:
    """Patterns in the order of the file.

    Args:
        patterns: as lines of the file; comments are none here.

    Raises:
        IgnoreError: a pattern is wrong.
    """

    root = State(False, 0)

    def __init__(self, patterns: list[str], lines: list[int] | None = None) -> None:
        self._rules = [
            _Rule(cleaned, line)
            for pattern, line in zip(patterns, lines or [0] * len(patterns), strict=True)
            if (cleaned := _cleaned(pattern))
        ]
        self._negated = [rule for rule in self._rules if rule.is_negated]

    @classmethod
    def parse(cls, data: bytes) -> IgnoreRules:
        """Read a .dockerignore.

        Raises:
            IgnoreError: a pattern is wrong, or the file is too large.
        """
        if len(data) > SIZE_LIMIT:
            raise IgnoreError(f"the file is larger than {SIZE_LIMIT} bytes")
        # Names of files are bytes: see os.fsdecode().
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        patterns, numbers = [], []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.startswith("#") and line.strip(_SPACE):
                patterns.append(line)
                numbers.append(number)
        return cls(patterns, numbers)

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def has_negated(self) -> bool:
        """Whether a pattern takes back what others leave out."""
        return bool(self._negated)

    def enter(self, parent: State, path: str) -> State:
        """Return the state of a path, which is relative to the context's root."""
        matched = parent.matched
        is_excluded = False
        for index, rule in enumerate(self._rules):
            bit = 1 << index
            if matched & bit or rule.matches(path):
                matched |= bit
                is_excluded = not rule.is_negated
        return State(is_excluded, matched)

    def excludes(self, path: str) -> bool:
        """Tell whether a path is left out, looking at each of its directories."""
        state = self.root
        names = path.strip("/").split("/")
        for count in range(1, len(names) + 1):
            state = self.enter(state, "/".join(names[:count]))
        return state.is_excluded

    def may_return(self, state: State, directory: str) -> bool:
        """Tell whether something below a directory may be in the context.

        For an excluded directory that is so if a negated pattern may match below it.
        """
        if not state.is_excluded:
            return True
        parts = directory.split("/")
        return any(rule.may_match_below(parts) for rule in self._negated)


def _cleaned(pattern: str) -> str:
    """Return a pattern without blanks around it, `.`, `..` and slashes at its ends."""
    text = pattern.strip(_SPACE)
    mark = "!" if text.startswith("!") else ""
    text = text[len(mark) :].strip(_SPACE)
    if not text:
        return mark
    cleaned = posixpath.normpath(text)
    return mark + (cleaned.lstrip("/") or "/")
