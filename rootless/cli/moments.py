"""Read moments as Docker does: --since and --until of `logs`, `events` and the filters of prune."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

_UNITS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?"
    r"(Z|[+-]\d\d:\d\d)?",
    re.ASCII,
)


def duration(value: str) -> int:
    """Return the nanoseconds of a Go duration: 10m, 1h30m, 1.5s, -2h.

    Raises:
        ValueError: it is none.
    """
    text = value[1:] if value[:1] in ("-", "+") else value
    total, at = 0.0, 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not text or at < len(text):
        raise ValueError("is not a span of time such as 10m or 1h30m")
    return int(-total if value[0] == "-" else total)


def moment(value: str) -> int:
    """Return nanoseconds since 1970 of a time of day, seconds since 1970, or a span before now.

    Raises:
        ValueError: it is none of them.
    """
    number = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,9}))?", value, re.ASCII)
    if number:
        return int(number[1]) * 10**9 + int(f"{number[2] or '0':<09}")
    match = _DATE.fullmatch(value)
    if match is None:
        try:
            return time.time_ns() - duration(value)
        except ValueError:
            raise ValueError("is not a time such as 2026-01-31T12:00:00, 1700000000, 10m") from None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    found = datetime(
        int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
    )
    if zone:
        offset = datetime.strptime(zone.replace("Z", "+00:00"), "%z").tzinfo
        found = found.replace(tzinfo=offset)
    else:
        found = found.astimezone()  # of this machine, as Docker's client
    seconds = (found - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()
    return int(seconds) * 10**9 + int(f"{fraction or '0':<09}")
