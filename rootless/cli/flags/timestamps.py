"""Read the times of `logs` and `events`, to the nanosecond, so that a printed time can be typed.

The grammar is that of `engine.timestamps`, whose times are floats: today's are 240 ns apart.
"""

from __future__ import annotations

import re
import time

from rootless.engine import timestamps

_FRACTION = re.compile(r"(\d+|.*:\d\d)\.(\d{1,9})(Z|[+-]\d\d:\d\d)?", re.ASCII | re.IGNORECASE)


def moment(value: str) -> int:
    """Return nanoseconds since 1970 of a time of day, seconds since 1970, or a span before now.

    Raises:
        ValueError: it is none of them.
    """
    found = _FRACTION.fullmatch(value)
    whole, fraction = (found[1] + (found[3] or ""), found[2]) if found else (value, "0")
    rest = int(f"{fraction:<09}")
    if re.fullmatch(r"\d{1,11}", whole, re.ASCII):
        return int(whole) * 10**9 + rest
    if value == "now":
        return time.time_ns()
    span = None if found else timestamps.duration(value)
    if span is not None:
        return time.time_ns() - round(span * 10**9)
    seconds = timestamps.rfc3339(whole, local=True)
    if seconds is None:
        raise ValueError("is not a time such as 2026-01-31T12:00:00, 1700000000, or 10m")
    return round(seconds) * 10**9 + rest
