"""What a query or a body asks for: values of Docker's forms, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rootless.engine import timestamps
from rootless.errors import RlessError, escape
from rootless.service.http import HttpError, decode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.service.http import Request

_Value = TypeVar("_Value")
_MOST_VALUES = 1000
_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a number", bool: "true or false"}


def get(body: dict[str, Any], name: str, default: _Value) -> _Value:
    """Return a value of an object of JSON, whose names are found in any case.

    Args:
        default: what stands for null and for a value that is missing; the value has its type.

    Raises:
        HttpError: it has another type.
    """
    value = body.get(name)
    if value is None:
        wanted = name.lower()
        value = next((body[key] for key in body if key.lower() == wanted), None)
    if value is None:
        return default
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise HttpError(400, f"{name} is not {_NAMES.get(kind, 'a number')}")
    checked: _Value = value
    return checked


def has(body: dict[str, Any], name: str) -> bool:
    """Tell whether an object of JSON has a value that is not null under a name of any case."""
    wanted = name.lower()
    return any(key.lower() == wanted and body[key] is not None for key in body)


def texts(body: dict[str, Any], name: str) -> list[str]:
    """Return a list of texts.

    Raises:
        HttpError: it is something else.
    """
    found: list[Any] = get(body, name, [])
    if not all(isinstance(text, str) and "\0" not in text for text in found):
        raise HttpError(400, f"{name} is not a list of texts")
    return found


def words(body: dict[str, Any], name: str) -> list[str] | None:
    """Return a command: a list of words, or a text that is the only one; None: it is not given.

    Raises:
        HttpError: it is something else.
    """
    if not has(body, name):
        return None
    value = next(body[key] for key in body if key.lower() == name.lower())
    return [value] if isinstance(value, str) else texts(body, name)


def pairs(body: dict[str, Any], name: str) -> dict[str, str]:
    """Return an object whose values are texts.

    Raises:
        HttpError: it is something else.
    """
    found: dict[str, Any] = get(body, name, {})
    if not all(isinstance(text, str) for text in found.values()):
        raise HttpError(400, f"{name} has a value that is not a text")
    return found


def filters(request: Request, known: Sequence[str]) -> dict[str, list[str]]:
    """Return the filters of the query, of which there are two forms: lists and sets.

    Raises:
        HttpError: they are neither, too many, or there is no such filter.
    """
    text = request.text("filters")
    if not text:
        return {}
    value = decode_json(text, "filters")
    if not isinstance(value, dict):
        raise HttpError(400, "filters is not an object of JSON")
    found: dict[str, list[str]] = {}
    for key, wanted in value.items():
        given = wanted
        if isinstance(wanted, dict):
            given = [name for name, is_set in wanted.items() if is_set]
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise HttpError(400, f"filter {escape(key)} is neither a list nor a set of texts")
        if key not in known:
            raise HttpError(400, f"invalid filter '{escape(key)}'")
        if given:
            found[key] = given
    if sum(map(len, found.values())) > _MOST_VALUES:
        raise HttpError(400, f"there are more than {_MOST_VALUES} values of filters")
    return found


def moment(request: Request, name: str) -> int | None:
    """Return a time of the query in nanoseconds since 1970; None: it is not given, or 0.

    Raises:
        HttpError: it is no time.
    """
    text = request.text(name)
    if text in ("", "0"):
        return None
    whole, dot, part = text.partition(".")
    if whole.isdigit() and (part.isdigit() or not dot):
        return int(whole) * 10**9 + int(part[:9].ljust(9, "0") or 0)
    try:
        return int(timestamps.parse(text, name) * 10**9)
    except RlessError as error:
        raise HttpError(400, str(error)) from None


def objects(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects.

    Raises:
        HttpError: it is something else.
    """
    found: list[Any] = get(body, name, [])
    if not all(isinstance(one, dict) for one in found):
        raise HttpError(400, f"{name} is not a list of objects")
    return found


def mapping(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object of JSON; {} if it is not given.

    Raises:
        HttpError: it is something else.
    """
    found: dict[str, Any] = get(body, name, {})
    return found
