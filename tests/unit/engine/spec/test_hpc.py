"""Variables of the caller that pass by patterns of their names."""

from __future__ import annotations

import pytest

from rootless.engine.spec import hpc


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    (
        ((), []),
        (("AB",), ["AB"]),
        (("AB*",), ["AB", "ABC", "AB_D"]),
        (("A?C", "Z*"), ["ABC"]),
        (("*[CX]", "X"), ["ABC", "X"]),
        (("*",), ["AB", "ABC", "AB_D", "X"]),
    ),
    ids=str,
)
def test_patterns(patterns: tuple[str, ...], chosen: list[str]) -> None:
    matches = hpc.matcher(patterns)
    assert [name for name in ("AB", "ABC", "AB_D", "X") if matches(name)] == chosen
