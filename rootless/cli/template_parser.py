"""Read a `--format` template: text -> tokens -> nodes, tuples that begin with their kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rootless.cli.template_functions import FUNCTIONS, SYNTAX, Made, error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.errors import RlessError

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
            raise error(f"unexpected {action[at]!r} in {{{{{action}}}}}", SYNTAX)
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
                raise error("a comment is not closed", SYNTAX)
            trim, at = template[end + 2 : close].strip() == "-", close + 2
            continue
        match = _ACTION_END.match(template, at)
        end = match.end() if match else at
        if template[end : end + 2] != "}}":
            raise error(f"the action {{{{{template[at:]} is not closed by }}}}", SYNTAX)
        action = template[at:end]
        trim = action[-1:] == "-" and action[-2:-1].isspace()
        yield "action", (action[:-1] if trim else action).strip()
        at = end + 2


class Parser:
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
                    raise error(f"unexpected {{{{{text}}}}}", SYNTAX)
                return nodes, text
            nodes.append(self.action(text, word))
        if ends:
            raise error("{{end}} is missing", SYNTAX)
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
                raise error(f"unexpected {{{{{end}}}}}", SYNTAX)
            other = self.block("end")[0] if end == "else" else []
            return ("range", names, pipeline, body, other)
        if word in ("break", "continue") and not rest:
            if not self.loops:
                raise error(f"{{{{{word}}}}} stands outside of a {{{{range}}}}", SYNTAX)
            return (word,)
        if word in ("define", "template", "block"):
            raise error(f"{{{{{word}}}}} is not supported", "write the template in one piece")
        if not text:
            raise error("the action {{}} is empty", SYNTAX)
        tokens = _tokens(text)
        if len(tokens) > 1 and tokens[0][0] == "variable" and tokens[1][1] in (":=", "="):
            pipeline = _Pipeline(text, tokens[2:]).whole()
            return ("set", tokens[0][1], tokens[1][1] == ":=", pipeline)
        return ("print", _Pipeline(text, tokens).whole())

    def choice(self, word: str, condition: str) -> Any:
        names, pipeline = self.declaration(condition)
        if len(names) > 1:
            raise error(f"too many variables in {{{{{word}{condition}}}}}", SYNTAX)
        body, end = self.block("end", "else")
        other: list[Any] = []
        if end.startswith(f"else {word} "):
            other = [self.choice(word, end[len(word) + 5 :])]
        elif end == "else":
            other = self.block("end")[0]
        elif end != "end":
            raise error(f"unexpected {{{{{end}}}}}", SYNTAX)
        return (word, names, pipeline, body, other)

    def declaration(self, text: str) -> tuple[list[str], Any]:
        """Return the variables that `$i, $x := pipeline` sets, and the pipeline."""
        tokens = _tokens(text)
        names: list[str] = []
        for at, (_, sign, _) in enumerate(tokens):
            if sign in (":=", "="):
                names = [text for kind, text, _ in tokens[:at] if kind == "variable"]
                if len(names) not in (1, 2) or at != 2 * len(names) - 1:
                    raise error(f"cannot read {{{{{text}}}}}", SYNTAX)
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
        return error(f"{what} in {{{{{self.text.strip()}}}}}", SYNTAX)

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
