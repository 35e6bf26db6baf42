"""What would grow without bounds is refused in one line, and soon (security class 67)."""

from __future__ import annotations

import time
import tracemalloc

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


MEBIBYTE = 1 << 20


@pytest.mark.parametrize("word", ["$a$a", '"$a$a"', "${none:-$a$a}", "${a//x/xx}"])
def test_value_has_a_size(word: str) -> None:
    with pytest.raises(DockerfileError, match="longer than 1048576 characters"):
        expand(word, {"a": "x" * (MEBIBYTE - 1)})


@pytest.mark.parametrize("word", ["$a" * 100, '"' + "$a" * 100 + '"', "${b//y/$a}"])
def test_value_is_not_made_before_it_is_refused(word: str) -> None:
    values = {"a": "x" * (MEBIBYTE - 1), "b": "y" * 100}
    tracemalloc.start()
    try:
        with pytest.raises(DockerfileError):
            expand(word, values)
        assert tracemalloc.get_traced_memory()[1] < 12 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_work_of_patterns_is_bounded() -> None:
    value = {"a": "x" * (MEBIBYTE - 1)}
    assert expand("${a##*}" * 4, value) == ""
    with pytest.raises(DockerfileError, match="patterns are looked for in more than"):
        expand("${a##*}" * 5, value)


def test_pattern_has_a_length() -> None:
    assert expand("${a#" + "x" * 4096 + "}", {"a": "y"}) == "y"
    with pytest.raises(DockerfileError, match="a pattern is longer than 4096 characters"):
        expand("${a#" + "x" * 4097 + "}", {"a": "y"})


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


@pytest.mark.parametrize(
    ("instruction", "parts", "said"),
    [("ENV", 3, "the variables have more than"), ("LABEL", 5, "the config has more than")],
)
def test_config_has_a_size(instruction: str, parts: int, said: str) -> None:
    config = ImageConfig({}, lambda _: 1)
    with pytest.raises(DockerfileError, match=said):
        for part in range(parts):
            names = [f"v{part}_{number}" for number in range(9)]
            text = "".join(f"{instruction} {name}={'x' * 100_000}\n" for name in names)
            for one in parse(f"FROM scratch\n{text}").stages[0].instructions:
                config.apply(one)
