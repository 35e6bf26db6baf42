"""Splitting and expansion of words: what BuildKit's own tables do not have, and the limits."""

from __future__ import annotations

import time

import pytest

from rootless.dockerfile import DockerfileError
from rootless.dockerfile.patterns import Pattern
from rootless.dockerfile.words import DEPTH_LIMIT, VALUE_LIMIT, Expander, split, unquote

VARIABLES = {"FOO": "xxx", "EMPTY": "", "PATH": "/a/b/c.tar.gz", "X": "xxyy", "STARS": "a***yy*"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${FOO-a} ${EMPTY-b} ${NO-c}", "xxx  c"),
        ("${FOO:-a} ${EMPTY:-b} ${NO:-c}", "xxx b c"),
        ("${FOO+a} ${EMPTY+b} ${NO+c}", "a b "),
        ("${FOO:+a} ${EMPTY:+b} ${NO:+c}", "a  "),
        ("${FOO?a} ${EMPTY?b}", "xxx "),
        ("${PATH#*/}", "a/b/c.tar.gz"),
        ("${PATH##*/}", "c.tar.gz"),
        ("${PATH%.*}", "/a/b/c.tar"),
        ("${PATH%%.*}", "/a/b/c"),
        ("${X#*x*y}", "y"),
        ("${X#*}", "xxyy"),
        ("${X##*}", ""),
        ("${X#$FOO}", "xxyy"),
        ("${X#}", "xxyy"),
        ("${X#?x}", "yy"),
        ("${X%?}", "xxy"),
        ("${X%%x*}", ""),
        ("${X##?*[}", "xxyy"),
        ("${STARS%%\\**\\*}", "a"),
        ("${X/x/-}", "-xyy"),
        ("${X//x/-}", "--yy"),
        ("${X//?/-}", "----"),
        ("${X/x*y/-}", "-"),
        ("${X/y*/-}", "xx-"),
        ("${PATH//\\//_}", "_a_b_c.tar.gz"),
        ("${PATH//\\//\\/}", "\\/a\\/b\\/c.tar.gz"),
        ("${X/$EMPTY/w}", "wxxyy"),
        ("${X///w}", "wxwxwywyw"),
        ("${NO/a/b}", ""),
        ("${X//a?/b}", "xxyy"),
        ("${X//x?/b}", "byy"),
        ('${NO:-${NO:-"a b"}}', "a b"),
        ('"a\\b\\"\\$\\\\"', 'a\\b"$\\'),
        ("é$é", "é"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("", ""),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert Expander(VARIABLES).word(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NO?why}", "NO: why"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${NO:?}", "NO: is not allowed to be unset"),
        ("${FOO:#x}", "unsupported modifier"),
        ("${FOO=x}", "unsupported modifier"),
        ("${FOO:", "a } is missing"),
        ("${FOO", "a } is missing"),
        ("${", "a } is missing"),
        ("${FOO/x}", "a / is missing"),
        ("${FOO#\\x}", "invalid escape"),
        ("${ FOO}", "bad substitution"),
        ('"${FOO"', "unsupported modifier"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        Expander(VARIABLES).word(text)
    assert message in str(caught.value)


def test_other_escape_character() -> None:
    expander = Expander({"A": "1"}, "`")
    assert expander.word('`$A \\$A "`"\\"') == '$A \\1 "\\'


def test_bodies_of_here_documents_have_no_quotes() -> None:
    assert Expander({"A": "1"}, quotes=False).word("'$A' \"\\$A\" \\\\ \\n") == "'1' \"$A\" \\ n"


def test_used_and_unset_names() -> None:
    expander = Expander({"A": "1"})
    expander.word("$A ${B:-$C}")
    assert (expander.used, expander.unset) == ({"A"}, {"B", "C"})


@pytest.mark.parametrize(
    ("text", "escape", "expected"),
    [
        ("a 'b c' \"d e\"f", "\\", ["a", "'b c'", '"d e"f']),
        ("a\\ b c\\", "\\", ["a\\ b", "c"]),
        ("a` b \\", "`", ["a` b", "\\"]),
        ("'it\\'s", "\\", ["'it\\'s"]),
        ('"a\\" b" c', "\\", ['"a\\" b"', "c"]),
        ("a '' \"\"", "\\", ["a", "''", '""']),
        ("\t \n", "\\", []),
        ("'a\\", "\\", ["'a\\"]),
        ('"a\\', "\\", ['"a']),
        ("\\", "\\", []),
    ],
)
def test_splitting(text: str, escape: str, expected: list[str]) -> None:
    assert split(text, escape) == expected


def test_names_of_here_documents() -> None:
    assert unquote("EOF") == ("EOF", False)
    assert unquote("'e'o\\'f") == ("eo'f", True)
    assert unquote("$EOF") == ("$EOF", False)


@pytest.mark.parametrize(
    "text",
    [
        "${A:-" * (DEPTH_LIMIT + 1) + "}" * (DEPTH_LIMIT + 1),
        "$BIG$BIG",
        '"$BIG$BIG"',
        "${BIG//a/bb}",
        "${BIG//?/bb}",
        "${BIG///bb}",
        "${BIG#" + "a?" * 4000 + "}",
        "${BIG#a}" * 9,
        "${BIG##*a}" * 9,
    ],
    ids=lambda text: text[:12],
)
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        Expander({"BIG": "a" * (VALUE_LIMIT - 1), "BB": "b" * VALUE_LIMIT}).word(text)


def test_deepest_nesting() -> None:
    assert Expander({}).word("${A:-" * DEPTH_LIMIT + "x" + "}" * DEPTH_LIMIT) == "x"


@pytest.mark.parametrize(
    "pattern", ["*a" * 300 + "b", "a?" * 300 + "b", "?*a" * 300 + "b"], ids=lambda text: text[:4]
)
def test_patterns_take_linear_time(pattern: str) -> None:
    value = "a" * 20_000
    start = time.process_time()
    found = Pattern(pattern)
    for longest in (False, True):
        assert found.without_prefix(value, longest) == value
        assert found.without_suffix(value, longest) == value
    assert found.replaced(value, "x", True, VALUE_LIMIT) == value
    assert time.process_time() - start < 20  # a second or so; backtracking needs years


def test_long_words_are_split_in_linear_time() -> None:
    start = time.process_time()
    assert len(split('"a\\' * 100_000)) == 1
    assert len(split("'a" * 100_001)) == 1
    assert len(split("a\\ " * 100_000)) == 1
    assert time.process_time() - start < 20
