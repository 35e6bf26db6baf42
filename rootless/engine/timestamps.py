"""Timestamps as people and images write them: RFC 3339, seconds of the epoch, "10m" ago.

The parser is our own: importing `datetime` and `re` takes `images` as long as reading a hundred
images.
"""

from __future__ import annotations

import time

from rootless.errors import RlessError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse(text: str, flag: str, now: float | None = None) -> float:
    """Return a moment in seconds of the epoch.

    Args:
        text: RFC 3339, with local time where it has no zone and midnight where it has no time;
            seconds of the epoch; or a duration of Go (`1h30m`), which is that long ago.
        flag: what errors name.

    Raises:
        RlessError: it is none of these.
    """
    stripped = text.strip()
    if stripped == "now":
        return time.time() if now is None else now
    number = _number(stripped)
    if number is not None:
        return number
    span = duration(stripped)
    if span is not None:
        return (time.time() if now is None else now) - span
    moment = rfc3339(stripped, local=True)
    if moment is None:
        raise RlessError(
            f"{flag}: {text!r} is not a time",
            "write it as 2026-01-31T12:00:00Z, as seconds of the epoch, or as 10m or 1h30m ago",
        )
    return moment


def _number(text: str) -> float | None:
    digits = text.removeprefix("-").replace(".", "", 1)
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20:
        return None
    return float(text)


def duration(text: str) -> float | None:
    """Return the seconds of a duration of Go ("1h30m", "-5s", "1.5h"); None: it is none."""
    rest = text.removeprefix("-").removeprefix("+")
    total = 0.0
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = rest[: len(rest) - len(rest.lstrip("hmsuµn"))]
        while unit and unit not in _UNITS:
            unit = unit[:-1]
        number = _number(digits)
        if number is None or not unit:
            return None
        total += number * _UNITS[unit]
        rest = rest[len(unit) :]
    if text in ("", "-", "+"):
        return None
    return -total if text[0] == "-" else total


def rfc3339(text: str, *, local: bool = False) -> float | None:
    """Return a time of RFC 3339 in seconds of the epoch; None: it is none.

    Args:
        local: take parts of it too (2026-01-31, 2026-01-31T12:00), as local time without a zone.
    """
    date, _, clock = text.replace("t", "T").replace(" ", "T").partition("T")
    offset: float | None = None
    if clock[-1:] in ("Z", "z"):
        clock, offset = clock[:-1], 0.0
    else:
        for sign in "+-":
            head, found, zone = clock.partition(sign)
            if found:
                hours, colon, minutes = zone.partition(":")
                if not (colon and _is_digits(hours, 2) and _is_digits(minutes, 2)):
                    return None
                clock = head
                offset = (int(hours) * 3600.0 + int(minutes) * 60.0) * (-1 if sign == "-" else 1)
    clock, _, fraction = clock.partition(".")
    parts = date.split("-")
    times = clock.split(":") if clock else []
    if not local and (len(times) != 3 or offset is None):
        return None
    if len(parts) != 3 or not _is_digits(parts[0], 4) or len(times) not in (0, 2, 3):
        return None
    if not all(_is_digits(part, 2) for part in (*parts[1:], *times)):
        return None
    if fraction and not (fraction.isascii() and fraction.isdigit()):
        return None
    year, month, day = map(int, parts)
    hour, minute, second = (*map(int, times), 0, 0, 0)[:3]
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    part = float(f"0.{fraction[:18]}") if fraction else 0.0
    if offset is None:
        return time.mktime((year, month, day, hour, minute, second, 0, 0, -1)) + part
    days = _days(year, month, day)
    return days * 86400.0 + hour * 3600 + minute * 60 + second - offset + part


def _is_digits(text: str, count: int) -> bool:
    return len(text) == count and text.isascii() and text.isdigit()


def _days(year: int, month: int, day: int) -> int:
    """Return the days since 1970-01-01 in the Gregorian calendar.

    Source: H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    """
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return (
        era * 146097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + (day_of_year - 719468)
    )


def show(moment: float) -> str:
    """Return a moment as RFC 3339 in UTC as Docker's JSON has it, without zeros at the end."""
    whole, rest = divmod(round(moment * 1e6), 10**6)  # a float has no more digits
    fraction = f".{rest:06}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + fraction + "Z"


def stamp_of(nanoseconds: int) -> bytes:
    """Return a moment as it stands in frames; these texts have the order of the moments."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest:09}Z", time.gmtime(seconds)).encode()
