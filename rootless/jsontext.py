"""JSON without `json`: the C parser and encoder of the interpreter, and nothing around them.

`import json` loads `re` and `enum` for its error messages and its pure Python fall-back: 6 ms
of every start, twice what the mounts cost. The C functions below it do all the work and are
loaded in 0.1 ms. Where an interpreter has them not, or otherwise, `json` itself is used; a test
holds both against each other.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _Scan = Callable[[str, int], tuple[Any, int]]
    _Encode = Callable[[Any, int], tuple[str, ...]]


class _Context:
    """What the C scanner asks of a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # the scanner clears it after each document


def _default(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _fast() -> tuple[_Scan, _Encode, _Encode] | None:
    """Return the C functions: (scan, encode, encode with sorted keys); None: there are none."""
    try:
        import _json
    except ImportError:
        return None
    context: Any = _Context
    scan: _Scan = _json.make_scanner(context)
    ascii_string = _json.encode_basestring_ascii
    encoders = [
        _json.make_encoder(None, _default, ascii_string, None, ":", ",", sort, False, False)
        for sort in (False, True)
    ]
    if "".join(encoders[0]({"a": [1, None]}, 0)) != '{"a":[1,null]}' or scan("[1]", 0) != ([1], 3):
        return None
    return scan, encoders[0], encoders[1]


try:
    _functions = _fast()
except (TypeError, AttributeError):
    _functions = None  # an interpreter that has them otherwise


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON document (RFC 8259), in UTF-8 if it is bytes.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    stripped = text.strip(" \t\n\r")
    if _functions is None or stripped[:1] not in '{["':
        import json

        return json.loads(text)
    try:
        value, end = _functions[0](stripped, 0)
    except StopIteration as error:
        raise ValueError(f"JSON value expected at character {error.value}") from None
    except SystemError:
        # The scanner raises json's own error, and finds it only where json is loaded.
        import json

        return json.loads(text)
    if end != len(stripped):
        raise ValueError(f"data after the JSON document, at character {end}")
    return value


def dumps(value: Any, sort_keys: bool = False) -> str:
    """Return a value as one line of ASCII JSON.

    Raises:
        TypeError: it holds something that JSON cannot.
        ValueError: it holds a number that is none (NaN, infinity).
    """
    if _functions is None or not isinstance(value, (dict, list)):
        import json

        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
    _, encode, encode_sorted = _functions
    return "".join((encode_sorted if sort_keys else encode)(value, 0))
