"""Values of the flags of `search`."""

from __future__ import annotations

from rootless.cli.flags.values import boolean_of, integer


def most(value: str) -> int:
    """Return how many to show: 1 to 100, as the Hub takes it."""
    return integer(value, 1, 100)


def condition(value: str) -> tuple[str, int]:
    """Return a filter as its key and the number of stars or the truth value."""
    key, _, text = value.partition("=")
    key = key.strip()
    if key == "stars":
        return key, integer(text, 0, 1 << 31)
    truth = boolean_of(text)
    if key not in ("is-official", "is-automated"):
        raise ValueError("is none of stars, is-official and is-automated")
    if truth is None:
        raise ValueError("is neither true nor false")
    return key, truth
