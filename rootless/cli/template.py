"""Go's text/template, as far as Docker's `--format` needs it: what a user types after -f.

A template is text with actions in `{{ }}`: fields (`.State.Status`), variables, pipelines, calls
of functions, `if`, `range` and `with`. It is compiled to a tree of small nodes and then run over
plain data: dicts stand for Go's structs and maps, lists for slices, None for nil. As in Go, a
`range` over a map goes by sorted keys, a missing key of a map is `<no value>`, and a missing
field of a struct is an error. A dict does not tell which of the two it is; what tells is the
spelling: fields of Go begin with a capital letter, and the names of a row are always fields.

Text from the data comes out without control characters (see `Renderer`): an image's label must
not steer the terminal.

Source: https://pkg.go.dev/text/template, https://docs.docker.com/engine/cli/formatting/
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SYNTAX = "see https://docs.docker.com/engine/cli/formatting/"


class _NoValue:
    """What a key that a map does not have gives: printed as Go does, false in a condition."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = _NoValue()


class Made(str):
    """Text that was made safe already, or written by the user: its line ends are meant."""

    __slots__ = ()


class Shown(dict[str, Any]):
    """An object whose fields have other names in JSON; `document` is what `json` gives."""

    document: object = None


def error(message: str, hint: str | None = None) -> RlessError:
    """Return the error for a template that cannot be read or run."""
    return RlessError(f"--format: {message}", hint, 1)


def _escaped(char: str) -> str:
    return r"\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def to_json(value: object, indent: int | None = None) -> str:
    """Return `value` as JSON that no terminal obeys: control characters are always escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(char if char == "\n" or char.isprintable() else _escaped(char) for char in text)


# -- reading: text -> tokens -> nodes ----------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|(?:\d[\d_]*)?\.?\d[\d_]*(?:[eE][-+]?\d+)?))
    |(?P<variable>\$\w*)
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)")
_CONSTANTS = {"true": True, "false": False, "nil": None}

_WORD = re.compile(r"\w*")

_Token = tuple[str, str, bool]  # kind, text, whether a space stands before it


def _unquote(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU" and len(code) > 1:
            return chr(int(code[1:], 16))
        if len(code) == 3:
            return chr(int(code, 8))
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text)


def _tokens(action: str) -> list[_Token]:
    found: list[_Token] = []
    at, spaced = 0, False
    while at < len(action):
        match = _TOKEN.match(action, at)
        if match is None:
            raise error(f"unexpected {action[at]!r} in {{{{{action}}}}}", _SYNTAX)
        kind = match.lastgroup or ""
        if kind != "space":
            found.append((kind, match[0], spaced))
        spaced = kind == "space"
        at = match.end()
    return found


_ACTION_END = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\\n]|\\.)+'|(?!}}).)*""", re.DOTALL
)


def _split(template: str, escapes: bool) -> Iterator[tuple[str, str]]:
    """Yield ("text", …) and ("action", …) with the white space trimmed that markers ask for."""
    at, trim = 0, False
    while True:
        opening = template.find("{{", at)
        text = template[at:] if opening < 0 else template[at:opening]
        if trim:
            text = text.lstrip(" \t\r\n")
        at = opening + 2
        if opening >= 0 and template[at : at + 1] == "-" and template[at + 1 : at + 2].isspace():
            text = text.rstrip(" \t\r\n")
            at += 1
        if escapes:  # what a shell user writes for a tab and a line end
            text = text.replace("\\t", "\t").replace("\\n", "\n")
        if text:
            yield "text", text
        if opening < 0:
            return
        inner = template[at:].lstrip()
        if inner.startswith("/*"):
            end = template.find("*/", at)
            close = template.find("}}", end)
            if end < 0 or close < 0 or template[end + 2 : close].strip() not in ("", "-"):
                raise error("a comment is not closed", _SYNTAX)
            trim, at = template[end + 2 : close].strip() == "-", close + 2
            continue
        match = _ACTION_END.match(template, at)
        end = match.end() if match else at
        if template[end : end + 2] != "}}":
            raise error(f"the action {{{{{template[at:]} is not closed by }}}}", _SYNTAX)
        action = template[at:end]
        trim = action[-1:] == "-" and action[-2:-1].isspace()
        yield "action", (action[:-1] if trim else action).strip()
        at = end + 2


class _Parser:
    """Read the actions of one template into nodes: tuples that begin with their kind."""

    def __init__(self, template: str, escapes: bool) -> None:
        self.parts = list(_split(template, escapes))
        self.at = 0
        self.loops = 0

    def block(self, *ends: str) -> tuple[list[Any], str]:
        """Return the nodes up to an action that begins with one of `ends`, and that action."""
        nodes: list[Any] = []
        while self.at < len(self.parts):
            kind, text = self.parts[self.at]
            self.at += 1
            if kind == "text":
                nodes.append(("text", text))
                continue
            word = _WORD.match(text)[0]  # type: ignore[index]
            if word in ("end", "else"):
                if word not in ends or (word == "end" and text != "end"):
                    raise error(f"unexpected {{{{{text}}}}}", _SYNTAX)
                return nodes, text
            nodes.append(self.action(text, word))
        if ends:
            raise error("{{end}} is missing", _SYNTAX)
        return nodes, ""

    def action(self, text: str, word: str) -> Any:
        """Return the node of one action."""
        rest = text[len(word) :]
        if word in ("if", "with"):
            return self.choice(word, rest)
        if word == "range":
            names, pipeline = self.declaration(rest)
            self.loops += 1
            body, end = self.block("end", "else")
            self.loops -= 1
            if end not in ("end", "else"):
                raise error(f"unexpected {{{{{end}}}}}", _SYNTAX)
            other = self.block("end")[0] if end == "else" else []
            return ("range", names, pipeline, body, other)
        if word in ("break", "continue") and not rest:
            if not self.loops:
                raise error(f"{{{{{word}}}}} stands outside of a {{{{range}}}}", _SYNTAX)
            return (word,)
        if word in ("define", "template", "block"):
            raise error(f"{{{{{word}}}}} is not supported", "write the template in one piece")
        if not text:
            raise error("the action {{}} is empty", _SYNTAX)
        tokens = _tokens(text)
        if len(tokens) > 1 and tokens[0][0] == "variable" and tokens[1][1] in (":=", "="):
            pipeline = _Pipeline(text, tokens[2:]).whole()
            return ("set", tokens[0][1], tokens[1][1] == ":=", pipeline)
        return ("print", _Pipeline(text, tokens).whole())

    def choice(self, word: str, condition: str) -> Any:
        names, pipeline = self.declaration(condition)
        if len(names) > 1:
            raise error(f"too many variables in {{{{{word}{condition}}}}}", _SYNTAX)
        body, end = self.block("end", "else")
        other: list[Any] = []
        if end.startswith(f"else {word} "):
            other = [self.choice(word, end[len(word) + 5 :])]
        elif end == "else":
            other = self.block("end")[0]
        elif end != "end":
            raise error(f"unexpected {{{{{end}}}}}", _SYNTAX)
        return (word, names, pipeline, body, other)

    def declaration(self, text: str) -> tuple[list[str], Any]:
        """Return the variables that `$i, $x := pipeline` sets, and the pipeline."""
        tokens = _tokens(text)
        names: list[str] = []
        for at, (_, sign, _) in enumerate(tokens):
            if sign in (":=", "="):
                names = [text for kind, text, _ in tokens[:at] if kind == "variable"]
                if len(names) not in (1, 2) or at != 2 * len(names) - 1:
                    raise error(f"cannot read {{{{{text}}}}}", _SYNTAX)
                tokens = tokens[at + 1 :]
                break
        return names, _Pipeline(text, tokens).whole()


class _Pipeline:
    """Read the tokens of one pipeline."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.at = 0

    def peek(self) -> _Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", False)

    def fail(self, what: str) -> RlessError:
        return error(f"{what} in {{{{{self.text.strip()}}}}}", _SYNTAX)

    def whole(self) -> Any:
        node = self.pipeline()
        if self.peek()[0] != "end":
            raise self.fail(f"unexpected {self.peek()[1]!r}")
        return node

    def pipeline(self) -> Any:
        commands = [self.command()]
        while self.peek()[1] == "|" and self.peek()[0] == "sign":
            self.at += 1
            commands.append(self.command())
            if commands[-1][0][0] not in ("call", "field", "variable", "chain"):
                raise self.fail("a pipe needs a function after it")
        return ("pipe", commands)

    def command(self) -> list[Any]:
        words: list[Any] = []
        while self.peek()[0] != "end" and self.peek()[1] not in ("|", ")"):
            if words and not self.peek()[2]:
                raise self.fail(f"a space is missing before {self.peek()[1]!r}")
            words.append(self.operand())
        if not words:
            raise self.fail("a value is missing")
        if len(words) > 1 and words[0][0] == "value":
            raise self.fail("a value was called like a function")
        return words

    def operand(self) -> Any:
        kind, text, _ = self.peek()
        self.at += 1
        if kind == "string":
            node: Any = ("value", Made(_unquote(text[1:-1])))
        elif kind == "raw":
            node = ("value", Made(text[1:-1]))
        elif kind == "char":
            char = _unquote(text[1:-1])
            if len(char) != 1:
                raise self.fail(f"{text} is not one character")
            node = ("value", ord(char))
        elif kind == "number":
            node = ("value", self.number(text))
        elif kind == "variable":
            node = ("variable", text, self.fields())
        elif kind == "field":
            node = ("field", [text[1:], *self.fields()])
        elif kind == "dot":
            node = ("field", [])
        elif kind == "word" and text in _CONSTANTS:
            node = ("value", _CONSTANTS[text])
        elif kind == "word":
            if text not in FUNCTIONS:
                raise error(f"there is no function {text!r}", f"functions are {_names(FUNCTIONS)}")
            node = ("call", text)
        elif text == "(":
            inner = self.pipeline()
            if self.peek()[1] != ")":
                raise self.fail("a ) is missing")
            self.at += 1
            node = ("chain", inner, self.fields())
        else:
            raise self.fail(f"unexpected {text!r}")
        return node

    def number(self, text: str) -> int | float:
        try:
            return int(text.replace("_", ""), 0)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            raise self.fail(f"{text!r} is not a number") from None

    def fields(self) -> list[str]:
        found = []
        while self.peek()[0] == "field" and not self.peek()[2]:
            found.append(self.peek()[1][1:])
            self.at += 1
        return found


def _names(things: Any) -> str:
    return ", ".join(sorted(str(thing) for thing in things)) or "none"


# -- the functions of Go and Docker ------------------------------------------------------------


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    if value is None or value is NO_VALUE:
        return "nil"
    return "map" if isinstance(value, dict) else "list" if isinstance(value, (list, tuple)) else "?"


def _same(one: object, other: object) -> bool:
    kinds = {_kind(one), _kind(other)}
    if len(kinds) > 1 and "nil" not in kinds:
        raise error(f"eq: a {_kind(one)} and a {_kind(other)} cannot be compared")
    if kinds & {"map", "list"} and "nil" not in kinds:
        raise error(f"eq: a {_kind(one)} cannot be compared")
    return one == other or kinds == {"nil"}


def _equal(first: object, *others: object) -> bool:
    if not others:
        raise error("eq needs two values")
    return any(_same(first, other) for other in others)


def _less(one: Any, other: Any) -> bool:
    if _kind(one) != _kind(other) or _kind(one) not in ("number", "string"):
        raise error(f"lt: a {_kind(one)} and a {_kind(other)} have no order")
    return bool(one < other)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            if key not in value:
                strings = all(isinstance(item, str) for item in value.values())
                value = "" if strings else NO_VALUE
            else:
                value = value[key]
        elif isinstance(value, (list, tuple, str)):
            if _kind(key) != "number":
                raise error(f"index: a {_kind(value)} needs a number, not {key!r}")
            if not 0 <= key < len(value):
                raise error(f"index: {key} is out of range, there are {len(value)}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise error(f"index: there is nothing to look {key!r} up in")
    return value


def _slice(value: Any, low: int = 0, high: int | None = None) -> Any:
    if _kind(value) not in ("string", "list"):
        raise error(f"slice needs a string or a list, not a {_kind(value)}")
    end = len(value) if high is None else high
    if not 0 <= low <= end <= len(value):
        raise error(f"slice: {low}:{end} is out of range, the length is {len(value)}")
    return value[low:end]


def _length(value: Any) -> int:
    if _kind(value) not in ("string", "list", "map"):
        raise error(f"len: a {_kind(value)} has no length")
    return len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value)


def _text_of(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise error(f"{name} needs a string, not a {_kind(value)}")
    return value


def _truncate(value: Any, width: Any) -> str:
    text = _text_of("truncate", value)
    return text[: max(0, width)]


def _title(value: Any) -> str:
    return re.sub(r"(?<!\w)\w", lambda match: match[0].upper(), _text_of("title", value))


def _split_text(value: Any, separator: Any) -> list[str]:
    text = _text_of("split", value)
    return text.split(separator) if separator else list(text)


def _json(value: Any) -> str:
    if value is NO_VALUE:
        value = None
    elif isinstance(value, Shown):
        value = value.document
    elif isinstance(value, dict):  # of a row: without its methods
        value = {key: item for key, item in value.items() if not callable(item)}
    return Made(to_json(value))


def _url(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus("".join(str(value) for value in values))


def _html(*values: Any) -> str:
    text = "".join(str(value) for value in values)
    for char, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "#34"), ("'", "#39")):
        text = text.replace(char, f"&{name};")
    return text


_VERB = re.compile(r"%([-+# 0]*)(\d+)?(?:\.(\d+))?(.)", re.DOTALL)


class _Functions:
    """The functions whose result depends on how text is shown."""

    def __init__(self, show: Callable[[object], str]) -> None:
        self.show = show

    def print(self, *values: object) -> str:
        text, before = "", True
        for number, value in enumerate(values):
            string = isinstance(value, str)
            if number and not string and not before:
                text += " "
            text, before = text + self.show(value), string
        return Made(text)

    def println(self, *values: object) -> str:
        return Made(" ".join(self.show(value) for value in values) + "\n")

    def join(self, values: Any, separator: Any) -> str:
        if values is None or values is NO_VALUE:
            return ""
        if not isinstance(values, (list, tuple)):
            raise error(f"join needs a list, not a {_kind(values)}")
        text = separator.join(self.show(value) for value in values)
        return Made(text)

    def printf(self, form: Any, *values: Any) -> str:
        rest = list(values)

        def one(match: re.Match[str]) -> str:
            flags, width, precision, verb = match.groups()
            if verb == "%":
                return "%"
            if not rest:
                return f"%!{verb}(MISSING)"
            text = self.verb(verb, rest.pop(0), flags, precision)
            if not width:
                return text
            zero = "0" in flags and "-" not in flags and verb not in "svqt"
            if zero and text[:1] in "+-":
                return text[0] + text[1:].rjust(int(width) - 1, "0")
            if "-" in flags:
                return text.ljust(int(width))
            return text.rjust(int(width), "0" if zero else " ")

        text = _VERB.sub(one, _text_of("printf", form))
        if rest:
            text += f"%!(EXTRA {', '.join(f'{_kind(v)}={self.show(v)}' for v in rest)})"
        return Made(text)

    def verb(self, verb: str, value: Any, flags: str, precision: str | None) -> str:
        kind = _kind(value)
        if verb == "v" or (verb == "s" and kind in ("string", "list", "map")):
            text = self.show(value)
            return text[: int(precision)] if precision and kind == "string" else text
        if verb == "q" and kind == "string":
            return to_json(str(value))
        if verb == "t" and kind == "bool":
            return "true" if value else "false"
        if kind == "number":
            sign = "+" if "+" in flags else ""
            if verb in "dboxXc" and isinstance(value, int):
                return chr(value) if verb == "c" else f"{value:{sign}{'#' * ('#' in flags)}{verb}}"
            if verb in "eEfFgG" and isinstance(value, float):
                return f"{value:{sign}.{precision or 6}{verb}}"
        if verb in "xX" and kind == "string":
            return format(
                int.from_bytes(value.encode(), "big"), f"0{2 * len(value.encode())}{verb}"
            )
        return f"%!{verb}({kind}={self.show(value)})"


FUNCTIONS: dict[str, Any] = {
    "and": None,  # these two leave the rest alone once they know; see Renderer.call
    "or": None,
    "eq": _equal,
    "ge": lambda one, other: not _less(one, other),
    "gt": lambda one, other: _less(other, one),
    "html": _html,
    "index": _index,
    "join": _Functions.join,
    "json": _json,
    "le": lambda one, other: not _less(other, one),
    "len": _length,
    "lower": lambda value: _text_of("lower", value).lower(),
    "lt": _less,
    "ne": lambda one, other: not _same(one, other),
    "not": lambda value: not value,
    "pad": lambda value, before, after: " " * before + _text_of("pad", value) + " " * after,
    "print": _Functions.print,
    "printf": _Functions.printf,
    "println": _Functions.println,
    "slice": _slice,
    "split": _split_text,
    "title": _title,
    "truncate": _truncate,
    "upper": lambda value: _text_of("upper", value).upper(),
    "urlquery": _url,
}
_SHOWING = ("join", "print", "printf", "println")
# In the heading of a table these leave the heading as it is.
_IN_HEADING = ("json", "title", "lower", "upper", "truncate", "split", "join", "pad")


# -- running -----------------------------------------------------------------------------------


class _Break(Exception):  # noqa: N818  a jump
    pass


class _Continue(Exception):  # noqa: N818  a jump
    pass


class Renderer:
    """Run one compiled template.

    Args:
        strict: show no line end or tab of the data either: for lists, where a line is a row.
        heading: run over the headings of a table, not over a row.
    """

    def __init__(self, nodes: list[Any], *, strict: bool = False, heading: bool = False) -> None:
        self.nodes = nodes
        self.strict = strict
        self.heading = heading
        self.functions = dict(FUNCTIONS)
        showing = _Functions(self.show)
        for name in _SHOWING:
            self.functions[name] = getattr(showing, name)
        if heading:
            for name in _IN_HEADING:
                self.functions[name] = lambda value, *_: value

    def render(self, data: Any) -> str:
        """Return the text for `data`.

        Raises:
            RlessError: a field that is not there, a function that cannot take its values.
        """
        self.root = data
        self.scopes: list[dict[str, Any]] = [{"$": data}]
        out: list[str] = []
        try:
            self.block(self.nodes, data, out)
        except RecursionError:
            raise error("the template is nested too deeply") from None
        return "".join(out)

    def show(self, value: object, inner: bool = False) -> str:
        """Return a value as Go prints it."""
        if isinstance(value, Made):
            return value
        if isinstance(value, str):
            if self.strict or value.isprintable():
                return escape(value)
            return "".join(char if char in "\n\t" else escape(char) for char in value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None:
            return "<nil>"
        if value is NO_VALUE:
            return "<no value>"
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
        if isinstance(value, dict):
            items = (f"{self.show(key)}:{self.show(value[key])}" for key in sorted(value))
            return f"map[{' '.join(items)}]"
        if isinstance(value, (list, tuple)):
            return f"[{' '.join(self.show(item) for item in value)}]"
        return escape(str(value))

    def block(self, nodes: list[Any], dot: Any, out: list[str]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "print":
                out.append(self.show(self.value(node[1], dot)))
            elif kind == "set":
                self.assign(node[1], self.value(node[3], dot), node[2])
            elif kind == "range":
                self.range(node, dot, out)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            else:
                _, names, pipeline, body, other = node
                self.scopes.append({})
                value = self.value(pipeline, dot)
                if names:
                    self.assign(names[0], value, True)
                if value:
                    self.block(body, value if kind == "with" else dot, out)
                else:
                    self.block(other, dot, out)
                self.scopes.pop()

    def range(self, node: Any, dot: Any, out: list[str]) -> None:
        _, names, pipeline, body, other = node
        value = self.value(pipeline, dot)
        pairs: Sequence[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(min(value, 1 << 16))]
        elif value is None or value is NO_VALUE:
            pairs = ()
        else:
            raise error(f"range cannot go through a {_kind(value)}")
        depth = len(self.scopes)
        try:
            for key, item in pairs:
                both = (key, item) if len(names) == 2 else (item,)
                self.scopes.append(dict(zip(names, both, strict=False)))
                try:
                    self.block(body, item, out)
                except _Continue:
                    pass
                del self.scopes[depth:]
        except _Break:
            del self.scopes[depth:]
        if not pairs:
            self.block(other, dot, out)

    def assign(self, name: str, value: Any, new: bool) -> None:
        if new:
            self.scopes[-1][name] = value
            return
        for scope in reversed(self.scopes):
            if name in scope:
                scope[name] = value
                return
        raise error(f"undefined variable {name}")

    def value(self, pipeline: Any, dot: Any) -> Any:
        """Return what a pipeline gives: each command's value is the next one's last argument."""
        last: list[Any] = []
        for command in pipeline[1]:
            last = [self.command(command, dot, last)]
        return last[0]

    def command(self, words: list[Any], dot: Any, last: list[Any]) -> Any:
        head = words[0]
        if head[0] == "call":
            return self.call(head[1], words[1:], dot, last)
        value = self.operand(head, dot)
        if callable(value):
            return value(*[self.operand(word, dot) for word in words[1:]], *last)
        if len(words) > 1 or last:
            raise error(f"{_path(head)} is not a function and takes no argument")
        return value

    def call(self, name: str, words: list[Any], dot: Any, last: list[Any]) -> Any:
        if name in ("and", "or"):
            value: Any = NO_VALUE
            for word in words:
                value = self.operand(word, dot)
                if bool(value) is (name == "or"):
                    return value
            return last[0] if last else value
        values = [self.operand(word, dot) for word in words] + last
        try:
            return self.functions[name](*values)
        except (TypeError, ValueError, OverflowError):
            shown = " ".join(_kind(value) for value in values) or "no value"
            raise error(f"the function {name} cannot take {shown}", _SYNTAX) from None

    def operand(self, node: Any, dot: Any) -> Any:
        kind = node[0]
        if kind == "value":
            return node[1]
        if kind == "field":
            return self.fields(dot, node[1], "")
        if kind == "chain":
            return self.fields(self.value(node[1], dot), node[2], "(…)")
        if kind == "call":
            return self.call(node[1], [], dot, [])
        for scope in reversed(self.scopes):
            if node[1] in scope:
                return self.fields(scope[node[1]], node[2], node[1])
        raise error(f"undefined variable {node[1]}")

    def fields(self, value: Any, names: list[str], path: str) -> Any:
        for name in names:
            if isinstance(value, dict):
                if name in value:
                    value = value[name]
                elif self.heading:
                    value = name.upper()
                elif value is self.root or name[:1].isupper():
                    where = f" in {path}" if path else ""
                    raise error(
                        f"there is no field {name!r}{where}", f"fields are {_fields(value)}"
                    )
                else:
                    value = NO_VALUE
            elif value is not NO_VALUE:
                what = "nothing (null)" if value is None else f"a {_kind(value)}"
                raise error(f"there is no field {name!r}: {path or '.'} is {what}")
            path = f"{path}.{name}"
        return value


def _fields(value: dict[str, Any]) -> str:
    names = ", ".join(str(name) for name in value)
    return escape(names) if names else "none"


def _path(node: Any) -> str:
    if node[0] == "field":
        return "." + ".".join(node[1])
    return ".".join([node[1] if node[0] == "variable" else "(…)", *node[2]])


def compile_template(template: str, *, escapes: bool = False) -> list[Any]:
    r"""Return the nodes of a template, for `Renderer`.

    Args:
        escapes: read `\t` and `\n` in the text as tab and line end, as Docker does for lists.

    Raises:
        RlessError: it is no template.
    """
    try:
        return _Parser(template, escapes).block()[0]
    except RecursionError:
        raise error("the template is nested too deeply") from None


def render(template: str, data: Any) -> str:
    """Return a template's text for one object: what `inspect --format` prints."""
    return Renderer(compile_template(template)).render(data)
