"""Immutable values: they behave as frozen dataclasses do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rootless.frozen import NOTHING, Frozen, as_data, replace


class Point(Frozen):
    x: int
    y: int = 0


class Named(Point, kw_only=True):
    _uncompared = ("note",)

    name: str
    note: str = ""


def test_fields_are_given_by_place_or_name() -> None:
    assert (Point(1).x, Point(1).y, Point(1, y=2).y) == (1, 0, 2)
    assert repr(Named(x=1, name="n", note="z")) == "Named(x=1, y=0, name='n')"


@pytest.mark.parametrize(
    "make",
    [
        Point,
        lambda: Point(1, 2, 3),
        lambda: Point(1, x=1),
        lambda: Point(1, z=1),
        lambda: Named(1, name="n"),
        lambda: Named(x=1),
    ],
)
def test_wrong_fields_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        make()


def test_equal_values_are_equal() -> None:
    assert Point(1) == Point(1, 0)
    assert Point(1) != Point(2)
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert Named(x=1, name="n", note="a") == Named(x=1, name="n", note="b")
    assert Point(1) != Named(x=1, name="n")


def test_values_do_not_change() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    assert replace(point, y=3) == Point(1, 3)
    assert point == Point(1)


def test_values_as_data() -> None:
    class Line(Frozen):
        points: tuple[Point, ...]
        more: object = NOTHING

    assert as_data(Line((Point(1),), {"a": Point(2)})) == {
        "points": [{"x": 1, "y": 0}],
        "more": {"a": {"x": 2, "y": 0}},
    }
    assert as_data(Line(())) == {"points": [], "more": {}}
