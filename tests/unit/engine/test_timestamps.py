"""Timestamps, compared with datetime."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rootless.engine import timestamps
from rootless.errors import RlessError

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES))
def test_parsing_agrees_with_datetime(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()
    found = timestamps.rfc3339(moment.isoformat())
    assert found is not None and abs(found - expected) < 1e-4


@given(st.integers(0, 4_000_000_000))
def test_formatted_timestamps_are_read_back(seconds: int) -> None:
    assert timestamps.rfc3339(timestamps.show(seconds)) == seconds
    assert timestamps.rfc3339(timestamps.show(seconds + 0.5)) == seconds + 0.5


@given(st.text("0123456789-:TZ.+ hms", max_size=30))
@example(".-0")
def test_any_text_gives_a_timestamp_or_an_error(text: str) -> None:
    try:
        assert isinstance(timestamps.parse(text, "--since"), float)
    except RlessError as error:
        assert "--since" in error.message


@pytest.mark.parametrize(
    ("text", "ago"),
    [("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("250ms", 0.25), ("-5s", -5)],
)
def test_durations_count_back_from_now(text: str, ago: float) -> None:
    assert timestamps.parse(text, "x", now=10_000.0) == 10_000.0 - ago


def test_dockers_forms_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert timestamps.parse("1700000000.25", "x") == 1700000000.25
        assert timestamps.parse("2026-01-31T12:00:00Z", "x") == 1769860800.0
        assert timestamps.parse("2026-01-31T12:00:00", "x") == 1769860800.0 - 7200
        assert timestamps.parse("2026-01-31T12:00", "x") == 1769860800.0 - 7200
        assert timestamps.parse("2026-01-31", "x") == 1769860800.0 - 7200 - 12 * 3600
        assert timestamps.parse("2026-01-31T12:00:00+02:00", "x") == 1769860800.0 - 7200
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    ["", "x", "2026-13-01", "2026-01-31T25:00:00Z", "5y", "1h x", "٣", "2026-01-31T12:00:00+2"],
)
def test_wrong_timestamps_are_refused(text: str) -> None:
    with pytest.raises(RlessError, match="is not a time"):
        timestamps.parse(text, "--until")
