"""Durations as Go writes them, as 1m30s.

Source: pkg.go.dev/time#ParseDuration.
"""

from __future__ import annotations

import re

from rootless.dockerfile.errors import DockerfileError

_PIECE = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|us|µs|μs|ns|s)")
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_LEAST = 10**6
_MOST = 2**63 - 1


def parse_duration(name: str, text: str) -> int:
    """Return nanoseconds: 0, or at least a millisecond.

    Args:
        name: the flag, for the message.

    Raises:
        DockerfileError: it is no duration, or one that is too short.
    """
    total = 0.0
    rest = "0s" if text == "0" else text
    while match := _PIECE.match(rest):
        unit = match[0].lstrip("0123456789.")
        number = float(match[0][: -len(unit)])
        total += number * _UNITS[unit.replace("µ", "u").replace("μ", "u")]
        rest = rest[match.end() :]
    if rest or not text or total > _MOST:
        raise DockerfileError(f"--{name}={text}: this is not a duration", "write it as 1m30s")
    if 0 < total < _LEAST:
        raise DockerfileError(f"--{name}={text}: this is less than 1ms")
    return round(total)
