"""From the bytes of a Dockerfile to its instructions as text.

`read` splits a file into directives and nodes: comments and continuations are gone, flags are set
apart, here-documents are attached. It does not know which instructions there are.

Source: docs.docker.com/reference/dockerfile; BuildKit frontend/dockerfile/parser.
"""

from __future__ import annotations

import re

from rootless.dockerfile.arguments import json_words
from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.heredocs import Heredoc, find_heredocs
from rootless.frozen import NOTHING, Frozen, replace

SIZE_LIMIT = 1 << 20  # bytes of a file
LINE_LIMIT = 128 << 10  # bytes of a line
INSTRUCTION_LIMIT = 10_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_BLANKS = " \t\r\v\f"
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S(?:.*\S)?)\s*\Z")
_FRONTEND = re.compile(
    r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_TAKES_HEREDOCS = ("run", "copy", "add")


class Directives(Frozen):
    """The `# key=value` lines at the start of a file.

    Attributes:
        lines: the line of each directive by its name.
        skipped: names of checks that are not made; `all`: none is.
        experimental: names of experimental checks that are made; `all`: all are.
        error: what checks find makes the build fail.
    """

    escape: str = "\\"
    syntax: str | None = None
    skipped: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False
    lines: Mapping[str, int] = NOTHING


class Finding(Frozen):
    """Something that is accepted but should not be there; `rule` is Docker's name of the check."""

    rule: str
    message: str
    line: int
    last: int = 0


class Node(Frozen):
    """One instruction as text.

    Attributes:
        name: as it was written.
        flags: words like `--from=x`, without their quotes.
        rest: what follows the flags, with its quotes.
        original: the joined line.
        line: its first line, from 1.
        last: its last line, the end of its last here-document.
        comments: the comment lines right above it.
        escape: the escape character of the file.
    """

    name: str
    flags: tuple[str, ...]
    rest: str
    original: str
    line: int
    last: int
    escape: str = "\\"
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()


class Source(Frozen):
    """A file that was read; `text` is decoded and without a byte order mark."""

    text: str
    directives: Directives
    nodes: tuple[Node, ...]
    warnings: tuple[Finding, ...]


def read(data: bytes | str) -> Source:
    """Split a Dockerfile into directives and instructions.

    Raises:
        DockerfileError: it is no text, too large, empty, or a here-document has no end.
    """
    lines = _lines(data)
    directives, first = _directives(lines)
    reader = _Reader(lines, directives.escape, first)
    while reader.at < len(lines):
        reader.instruction()
        if len(reader.nodes) > INSTRUCTION_LIMIT:
            raise DockerfileError(f"more than {INSTRUCTION_LIMIT} instructions", None, reader.at)
    if not reader.nodes:
        raise DockerfileError("the Dockerfile has no instructions", "begin with FROM")
    return Source("".join(lines), directives, tuple(reader.nodes), tuple(reader.warnings))


def check_syntax(frontend: str) -> None:
    """Refuse another frontend than Docker's own, which is implemented here.

    Raises:
        DockerfileError: it is another one.
    """
    name = "".join(frontend.split(maxsplit=1)[:1])
    if not _FRONTEND.fullmatch(name):
        raise DockerfileError(
            f"syntax {name!r}: only docker/dockerfile is known",
            "rless reads Dockerfiles itself and runs no other frontend",
        )


def split_node(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Return the name of an instruction, its flags and the rest of the line."""
    name, *rest = re.split(rf"[{_BLANKS}]+", line.strip(_BLANKS), maxsplit=1)
    flags, args = _flags(rest[0], escape) if rest else ((), "")
    return name, flags, args.strip(_BLANKS)


def _lines(data: bytes | str) -> list[str]:
    """Return the lines with their ends."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if len(raw) > SIZE_LIMIT:
        raise DockerfileError(f"the Dockerfile is larger than {SIZE_LIMIT} bytes")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    lines = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if b"\0" in line:
            raise DockerfileError("a NUL byte: this is no text file", None, number)
        if len(line) > LINE_LIMIT:
            raise DockerfileError(f"a line of more than {LINE_LIMIT} bytes", None, number)
        try:
            lines.append(line.decode("utf-8") + "\n")
        except UnicodeDecodeError as error:
            raise DockerfileError("this is no valid UTF-8", None, number) from error
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _directives(lines: list[str]) -> tuple[Directives, int]:
    """Return the directives and the number of lines that they take.

    Below a line of `#!` only `syntax` and `check` are ones, as in BuildKit.
    """
    values: dict[str, str] = {}
    numbers: dict[str, int] = {}
    first = count = 1 if "".join(lines[:1]).startswith("#!") else 0
    for number, line in enumerate(lines[first:], first + 1):
        match = _DIRECTIVE.match(line.strip(_BLANKS + "\n"))
        if match is None or match[1].lower() not in ("syntax", "escape", "check"):
            break
        key = match[1].lower()
        if key in values:
            raise DockerfileError(f"the directive {key} is there twice", None, number)
        values[key], numbers[key] = match[2], number
        count = number
    escape = "\\" if first else values.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise DockerfileError(
            f"escape {escape!r}: only \\ and ` can be one", None, numbers["escape"]
        )
    if "syntax" in values:
        try:
            check_syntax(values["syntax"])
        except DockerfileError as error:
            raise error.at(numbers["syntax"]) from error
    syntax = values["syntax"].split(maxsplit=1)[0] if "syntax" in values else None
    found = Directives(escape, syntax, lines=numbers)
    return with_check(found, values.get("check", ""), numbers.get("check", 0)), count


def with_check(directives: Directives, text: str, number: int = 0) -> Directives:
    """Return directives whose `check` is another: `skip=A,B;experimental=C;error=true`.

    Raises:
        DockerfileError: something else stands in it; on line `number`, 0 for none.
    """
    sets: dict[str, frozenset[str]] = {"skip": frozenset(), "experimental": frozenset()}
    error = False
    for part in filter(None, map(str.strip, text.split(";"))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key in sets and equals:
            sets[key] |= frozenset(name.strip() for name in value.split(","))
        elif key == "error" and value.lower() in ("true", "false"):
            error = value.lower() == "true"
        else:
            raise DockerfileError(f"check: {part!r} is no option of it", None, number)
    return replace(directives, skipped=sets["skip"], experimental=sets["experimental"], error=error)


class _Reader:
    """Reads one instruction after the other."""

    def __init__(self, lines: list[str], escape: str, at: int) -> None:
        self.lines = lines
        self.at = at  # the next line, from 0
        self.nodes: list[Node] = []
        self.warnings: list[Finding] = []
        self._escape = escape
        self._comments: list[str] = []
        e = re.escape(escape)
        self._continues = re.compile(rf"(?<!{e}){e}[ \t]*\Z")

    def instruction(self) -> None:
        """Read the next line, and what belongs to it."""
        line = self._next().strip(_BLANKS + "\n")
        if not line or line.startswith("#"):
            comment = line[1:].strip()
            self._comments = [*self._comments, comment] if comment else []
            return
        self.at -= 1
        first = self.at + 1
        joined = self._joined(first)
        comments, self._comments = tuple(self._comments), []
        if not joined.strip(_BLANKS):
            return
        try:
            heredocs = self._heredocs(joined)
        except DockerfileError as error:
            raise error.at(first, self.at) from error
        name, flags, rest = split_node(joined, self._escape)
        self.nodes.append(
            Node(name, flags, rest, joined, first, self.at, self._escape, heredocs, comments)
        )

    def _next(self) -> str:
        self.at += 1
        return self.lines[self.at - 1]

    def _joined(self, first: int) -> str:
        """Return a line with those that continue it."""
        parts: list[str] = []
        has_empty = False
        goes_on = True
        while goes_on and self.at < len(self.lines):
            line = self._next().rstrip("\r\n")
            text = line.strip(_BLANKS)
            if parts and (not text or text.startswith("#")):
                has_empty = has_empty or not text
                continue
            if not parts:
                line = line.lstrip(_BLANKS)
            match = self._continues.search(line)
            goes_on = match is not None
            parts.append(line[: match.start()] if match else line)
        joined = "".join(parts)
        if has_empty:
            self.warnings.append(
                Finding("NoEmptyContinuation", "Empty continuation line", first, self.at)
            )
        return joined

    def _heredocs(self, joined: str) -> tuple[Heredoc, ...]:
        """Return the here-documents of an instruction, with their bodies, which are read now."""
        if "<<" not in joined or not _can_have_heredocs(joined, self._escape):
            return ()
        found = []
        for heredoc in find_heredocs(joined):
            body: list[str] = []
            while True:
                if self.at == len(self.lines):
                    raise DockerfileError(
                        f"the here-document {heredoc.name!r} has no end",
                        f"end it by a line that is {heredoc.name} alone",
                    )
                line = self._next()
                end = line.rstrip("\r\n")
                if (end.lstrip("\t") if heredoc.strips_tabs else end) == heredoc.name:
                    break
                body.append(line)
            found.append(replace(heredoc, content="".join(body)))
        return tuple(found)


def _can_have_heredocs(line: str, escape: str) -> bool:
    name, _, rest = split_node(line, escape)
    if name.lower() == "onbuild":
        name, _, rest = split_node(rest, escape)
    if name.lower() not in _TAKES_HEREDOCS:
        return False
    try:
        return json_words(rest) is None
    except DockerfileError:
        return False


def _flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """Return the words that begin with `--`, without quotes, and the text after them."""
    found: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return tuple(found), text[at:]
        word, quote = "", ""
        while at < len(text) and (quote or not text[at].isspace()):
            char = text[at]
            at += 1
            if char == escape:
                word += text[at : at + 1]
                at += 1
            elif quote:
                quote, word = ("", word) if char == quote else (quote, word + char)
            elif char in "\"'":
                quote = char
            else:
                word += char
        if word == "--":
            return tuple(found), text[at:]
        found.append(word)
