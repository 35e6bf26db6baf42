"""Immutable values: what `dataclasses` gives with `frozen`, without its imports and its compiling.

    class Point(Frozen):
        x: int
        y: int = 0

A class costs 0.01 ms in place of 0.4 ms, which a command pays each time, and no import costs 7 ms.
Type checkers see a dataclass. `engine.request.Requested` is another base, for the path of `run`:
there every field has a default, and what is saved are those that differ.
"""

from __future__ import annotations

from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, TypeVar

    from typing_extensions import dataclass_transform

    _Value = TypeVar("_Value", bound="Frozen")
else:

    def dataclass_transform(**_: object) -> Any:
        """Do nothing: it is for type checkers."""
        return lambda value: value


NOTHING: Mapping[Any, Any] = MappingProxyType({})  # the default of a field


@dataclass_transform(frozen_default=True)
class Frozen:
    """A base whose subclasses' annotations are fields; a value in the class is the default.

    `_uncompared` of a class are fields that do not count for equality, and are not shown.
    """

    _uncompared: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _positional: ClassVar[tuple[str, ...]] = ()
    _required: ClassVar[frozenset[str]] = frozenset()
    _compared: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        own = (name for name in cls.__annotations__ if name not in cls._fields)
        cls._fields = (*cls._fields, *own)
        cls._required = frozenset(name for name in cls._fields if not hasattr(cls, name))
        cls._compared = tuple(name for name in cls._fields if name not in cls._uncompared)
        cls._positional = () if kw_only else cls._fields

    def __init__(self, *values: Any, **named: Any) -> None:
        found = dict(zip(self._positional, values, strict=False))
        if len(values) > len(found) or found.keys() & named.keys():
            raise TypeError(f"{type(self).__name__}: too many values")
        found.update(named)
        if not self._required <= found.keys() <= set(self._fields):
            raise TypeError(
                f"{type(self).__name__}: missing {self._required - found.keys()},"
                f" unknown {found.keys() - set(self._fields)}"
            )
        self.__dict__.update(found)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._compared])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frozen) or type(self) is not type(other):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self._compared)
        return f"{type(self).__name__}({', '.join(shown)})"


def replace(value: _Value, **changes: Any) -> _Value:
    """Return a value with some other fields."""
    fields = {name: getattr(value, name) for name in value._fields}
    return type(value)(**(fields | changes))


def as_data(value: Any) -> Any:
    """Return a value as dicts and lists, with those in it."""
    if isinstance(value, Frozen):
        return {name: as_data(getattr(value, name)) for name in value._fields}
    if isinstance(value, (tuple, list)):
        return [as_data(one) for one in value]
    if isinstance(value, (dict, MappingProxyType)):
        return {key: as_data(one) for key, one in value.items()}
    return value
