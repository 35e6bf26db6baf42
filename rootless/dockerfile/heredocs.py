"""Here-documents: the words `<<NAME` of a line, and the bodies that follow it.

Source: docs.docker.com/reference/dockerfile (here-documents); BuildKit
frontend/dockerfile/parser/parser.go.
"""

from __future__ import annotations

import re

from rootless.dockerfile.words import split, unquote
from rootless.frozen import Frozen

_START = re.compile(r"([0-9]*)<<(-?)\0?\s*([^<]*)\Z")
# Blanks between << and the name. A NUL, which no file has, stands for them while words are split.
_GAP = re.compile(r"<<(-?)[ \t\r]+(?=[^\s<])")
_TABS = re.compile(r"^\t+", re.MULTILINE)


class Heredoc(Frozen):
    """A here-document.

    Attributes:
        descriptor: the number before `<<`; 0 if there was none.
        expands: no part of the name was quoted.
        strips_tabs: it was written `<<-`.
        content: the body as written, with its line ends.
    """

    name: str
    descriptor: int = 0
    expands: bool = True
    strips_tabs: bool = False
    content: str = ""

    @property
    def body(self) -> str:
        """Return the content, without leading tabs if those are stripped."""
        return _TABS.sub("", self.content) if self.strips_tabs else self.content


def parse_heredoc(word: str) -> Heredoc | None:
    """Return what the word begins, or None if it begins no here-document.

    Raises:
        DockerfileError: a quote is not closed.
    """
    match = _START.match(word)
    if match is None or not match[3]:
        return None
    if len(split(match[3])) > 1:
        return None
    name, quoted = unquote(match[3])
    if not name:
        return None
    return Heredoc(name, int(match[1][-6:] or 0), not quoted, bool(match[2]))


def find_heredocs(line: str) -> list[Heredoc]:
    """Return the here-documents that a joined line begins, in their order, without bodies."""
    found = []
    for word in split(_GAP.sub("<<\\1\0", line)):
        heredoc = parse_heredoc(word) if "<<" in word else None
        if heredoc is not None:
            found.append(heredoc)
    return found
