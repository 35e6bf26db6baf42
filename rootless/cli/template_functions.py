"""The values and functions of a `--format` template: those of Go, and those that Docker adds."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Callable

SYNTAX = "see https://docs.docker.com/engine/cli/formatting/"


class _NoValue:
    """The value of a missing key of a map: printed as Go prints it, and false in a condition."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = _NoValue()


class Made(str):
    """Text that is safe already, or that the user wrote: its line ends are intended."""

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


def kind_of(value: object) -> str:
    """Return what Go would call a value: bool, number, string, nil, map or list."""
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
    kinds = {kind_of(one), kind_of(other)}
    if len(kinds) > 1 and "nil" not in kinds:
        raise error(f"eq: a {kind_of(one)} and a {kind_of(other)} cannot be compared")
    if kinds & {"map", "list"} and "nil" not in kinds:
        raise error(f"eq: a {kind_of(one)} cannot be compared")
    return one == other or kinds == {"nil"}


def _equal(first: object, *others: object) -> bool:
    if not others:
        raise error("eq needs two values")
    return any(_same(first, other) for other in others)


def _less(one: Any, other: Any) -> bool:
    if kind_of(one) != kind_of(other) or kind_of(one) not in ("number", "string"):
        raise error(f"lt: a {kind_of(one)} and a {kind_of(other)} have no order")
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
            if kind_of(key) != "number":
                raise error(f"index: a {kind_of(value)} needs a number, not {key!r}")
            if not 0 <= key < len(value):
                raise error(f"index: {key} is out of range, there are {len(value)}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise error(f"index: there is nothing to look {key!r} up in")
    return value


def _slice(value: Any, low: int = 0, high: int | None = None) -> Any:
    if kind_of(value) not in ("string", "list"):
        raise error(f"slice needs a string or a list, not a {kind_of(value)}")
    end = len(value) if high is None else high
    if not 0 <= low <= end <= len(value):
        raise error(f"slice: {low}:{end} is out of range, the length is {len(value)}")
    return value[low:end]


def _length(value: Any) -> int:
    if kind_of(value) not in ("string", "list", "map"):
        raise error(f"len: a {kind_of(value)} has no length")
    return len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value)


def _text_of(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise error(f"{name} needs a string, not a {kind_of(value)}")
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


class Functions:
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
            raise error(f"join needs a list, not a {kind_of(values)}")
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
            text += f"%!(EXTRA {', '.join(f'{kind_of(v)}={self.show(v)}' for v in rest)})"
        return Made(text)

    def verb(self, verb: str, value: Any, flags: str, precision: str | None) -> str:
        kind = kind_of(value)
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
    "join": Functions.join,
    "json": _json,
    "le": lambda one, other: not _less(other, one),
    "len": _length,
    "lower": lambda value: _text_of("lower", value).lower(),
    "lt": _less,
    "ne": lambda one, other: not _same(one, other),
    "not": lambda value: not value,
    "pad": lambda value, before, after: " " * before + _text_of("pad", value) + " " * after,
    "print": Functions.print,
    "printf": Functions.printf,
    "println": Functions.println,
    "slice": _slice,
    "split": _split_text,
    "title": _title,
    "truncate": _truncate,
    "upper": lambda value: _text_of("upper", value).upper(),
    "urlquery": _url,
}
SHOWING = ("join", "print", "printf", "println")
# In the heading of a table these leave the heading as it is.
IN_HEADING = ("json", "title", "lower", "upper", "truncate", "split", "join", "pad")
