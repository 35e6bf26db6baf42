"""The forms of what follows an instruction's name: JSON, words, names with values.

Source: BuildKit frontend/dockerfile/parser/line_parsers.go.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.words import split

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLANKS = re.compile(r"[\t\v\f\r ]+")


def json_words(text: str) -> list[str] | None:
    """Return the words of the JSON form, or None if the text is not in that form.

    Raises:
        DockerfileError: an array with something else than strings in it.
    """
    if not text.startswith("["):
        return None
    try:
        value: Any = json.loads(text, parse_int=float, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in value):
        raise DockerfileError("an array of the JSON form has only strings in it")
    return [re.sub("[\ud800-\udfff]", "\ufffd", word) for word in value]


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def command_words(text: str) -> tuple[list[str], bool]:
    """Return the words of a command and whether they are in the JSON form; else there is one."""
    words = json_words(text)
    return ([text] if text else [], False) if words is None else (words, True)


def list_words(text: str) -> list[str]:
    """Return the words of the JSON form, or those between blanks, with quotes on."""
    words = json_words(text)
    return blank_words(text) if words is None else words


def blank_words(text: str) -> list[str]:
    """Return what is between blanks; quotes mean nothing here."""
    return _BLANKS.split(text) if text else []


def health_words(text: str) -> tuple[list[str], bool]:
    """Return the kind of a health check with the words of its command, and whether it is JSON."""
    kind, rest = [*_BLANKS.split(text, maxsplit=1), ""][:2]
    words, is_json = command_words(rest)
    return ([kind, *words] if kind else []), is_json


def pairs(name: str, text: str, escape: str) -> tuple[list[tuple[str, str]], bool]:
    """Return names and values of ENV or LABEL, quotes on, and whether it is the old form.

    Raises:
        DockerfileError: a word without `=`, or a name without a value.
    """
    words = split(text, escape)
    if words and "=" not in words[0]:
        parts: Sequence[str] = _BLANKS.split(text, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(f"{name} must have two arguments", f"write {name} NAME=VALUE")
        return [(parts[0], parts[1])], True
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"no = in {word!r}", f"write {name} NAME=VALUE")
        if not key:
            raise DockerfileError(f"{name}: a name cannot be empty")
        found.append((key, value))
    return found, False
