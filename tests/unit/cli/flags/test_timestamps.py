"""Timestamps and durations as Docker reads them."""

from __future__ import annotations

import time

import pytest

from rootless.cli.flags.timestamps import moment

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("0", 0),
        ("1700000000", 1_700_000_000 * SECOND),
        ("1700000000.5", 1_700_000_000 * SECOND + 5 * 10**8),
        ("1700000000.000000001", 1_700_000_000 * SECOND + 1),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * SECOND),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000 * SECOND + 123456789),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000 * SECOND),
        ("2023-11-14 22:13Z", 1_699_999_980 * SECOND),
        ("2023-11-14t22:13:20z", 1_700_000_000 * SECOND),
    ),
)
def test_timestamps_are_parsed(text: str, expected: int) -> None:
    assert moment(text) == expected


def test_timestamps_without_a_zone_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX+03:00")
    time.tzset()
    try:
        assert moment("2023-11-14T19:13:20") == 1_700_000_000 * SECOND
    finally:
        monkeypatch.undo()
        time.tzset()


def test_durations_count_back_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1000 * SECOND)
    assert moment("10m") == 400 * SECOND
    assert moment("1m30s") == 910 * SECOND
    assert moment("-10s") == 1010 * SECOND
    assert moment("1.5s") == 998_500_000_000
    assert moment("100ms") == 999_900_000_000
    assert moment("1h30m") == -4400 * SECOND


@pytest.mark.parametrize(
    "text",
    ("", "x", "1h30", "1d", "2023-13-01", "2023-11-14T99:00:00", "-", "m", "1.2.3", "٣s",
     "9999999999999999", "99999-01-01"),
)  # fmt: skip
def test_wrong_timestamps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as"):
        moment(text)
