"""What would grow without bounds is refused in one line, and soon (security class 67)."""

from __future__ import annotations

import time

import pytest

from rootless.dockerfile import DockerfileError, parse
from rootless.dockerfile.config import ImageConfig
from rootless.dockerfile.words import Expander


def expand(text: str, variables: dict[str, str]) -> str:
    return Expander(variables, "\\").word(text)


SECONDS = 20  # far more than it takes; an exponential match would take years


def test_values_cannot_double_for_ever() -> None:
    value = "x" * 1000
    with pytest.raises(DockerfileError):
        for _ in range(40):
            value = expand("${a//x/xx}", {"a": value})


def test_nested_words_have_a_depth() -> None:
    deep = "${a:-" * 5000 + "x" + "}" * 5000
    with pytest.raises(DockerfileError):
        expand(deep, {})


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "?*" * 40 + "b", "*" * 1000 + "b"])
def test_patterns_are_matched_in_linear_time(pattern: str) -> None:
    began = time.monotonic()
    expand("${a##" + pattern + "}${a%%" + pattern + "}", {"a": "a" * 2000})
    assert time.monotonic() - began < SECONDS


def test_ten_thousand_stages_are_refused() -> None:
    with pytest.raises(DockerfileError, match="500 stages"):
        parse("FROM scratch\n" * 10_000)


def test_environment_has_a_size() -> None:
    config = ImageConfig({}, lambda _: 1)
    with pytest.raises(DockerfileError, match="characters"):
        for part in range(3):
            names = [f"v{part}_{number}" for number in range(9)]
            text = "FROM scratch\n" + "".join(f"ENV {name}={'x' * 100_000}\n" for name in names)
            for instruction in parse(text).stages[0].instructions:
                config.apply(instruction)
