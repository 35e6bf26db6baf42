"""Read the values of --health-*: Docker's durations."""

from __future__ import annotations

from rootless.cli.flags.values import integer

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_UNITS["h"] = 3600.0
_SHORTEST = 1e-3  # seconds, as Docker


def duration(value: str) -> float:
    """Return seconds from `1m30s`, `500ms`, `1.5h` (Go's time.ParseDuration); 0: the default."""
    rest, seconds = value, 0.0
    if value == "0":
        return 0.0
    if not value or value[0] in "+-":
        raise ValueError("is not a duration")
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        # "1m30s" has a digit after each unit but the last; "ms" is no "m" and "s".
        if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
            raise ValueError("is not a duration such as 30s or 1m30s")
        seconds += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    if 0 < seconds < _SHORTEST:
        raise ValueError("is less than a millisecond")
    return seconds


def retries(value: str) -> int:
    """Return how many; 0: the default."""
    return integer(value, 0, 1 << 31)
