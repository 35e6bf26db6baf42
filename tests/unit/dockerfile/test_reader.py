"""From bytes to nodes: text, directives, comments, continuations, flags, here-documents, limits."""

from __future__ import annotations

import pytest

from rootless.dockerfile import DockerfileError, check_syntax, parse, show_lines
from rootless.dockerfile.heredocs import Heredoc, find_heredocs, parse_heredoc
from rootless.dockerfile.reader import INSTRUCTION_LIMIT, LINE_LIMIT, SIZE_LIMIT, read


def rests(text: str | bytes) -> list[str]:
    return [node.rest for node in read(text).nodes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xef\xbb\xbfRUN a", ["a"]),
        (b"RUN a\r\nRUN b\r\n", ["a", "b"]),
        ("RUN a \\\n  b", ["a   b"]),
        ("RUN a\\\n b", ["a b"]),
        ("RUN a\\ \t\n b", ["a b"]),
        ("RUN a\\\r\nb\r\n", ["ab"]),
        ("RUN a \\\\\nRUN b", ["a \\\\", "b"]),
        ("RUN a\\\n\\\nb", ["ab"]),
        ("RUN a\\\n# comment\n  # more \\\nb", ["ab"]),
        ("RUN a\\\n\n\nb", ["ab"]),
        ("RUN a\\", ["a"]),
        ("RUN a # no comment", ["a # no comment"]),
        ("  # comment\n\tRUN\ta", ["a"]),
        ("# escape=`\nRUN a `\nb \\\nRUN c", ["a b \\", "c"]),
        ("\\\nRUN a", ["a"]),
        ("RUN a\n\\\n", ["a"]),
    ],
)
def test_lines_are_joined(text: str | bytes, expected: list[str]) -> None:
    assert rests(text) == expected


@pytest.mark.parametrize(
    ("text", "escape", "syntax", "skipped"),
    [
        ("#escape=`\nRUN a", "`", None, set()),
        ("#  EsCaPe  =  `  \nRUN a", "`", None, set()),
        (
            "# syntax=docker/dockerfile:1 # more\n# escape=`\nRUN a",
            "`",
            "docker/dockerfile:1",
            set(),
        ),
        ("# comment\n# escape=`\nRUN a", "\\", None, set()),
        ("\n# escape=`\nRUN a", "\\", None, set()),
        ("# unknown=1\n# escape=`\nRUN a", "\\", None, set()),
        ("RUN a\n# escape=`\nRUN b", "\\", None, set()),
        ("#!/bin/sh\n# check=skip=A\n# escape=`\nRUN a", "\\", None, {"A"}),
        ("#!/bin/sh\n#!/bin/sh\n# check=skip=A\nRUN a", "\\", None, set()),
        ("# check = skip=A, B ; error=true\nRUN a", "\\", None, {"A", "B"}),
    ],
)
def test_directives(text: str, escape: str, syntax: str | None, skipped: set[str]) -> None:
    found = read(text).directives
    assert (found.escape, found.syntax, found.skipped) == (escape, syntax, skipped)
    assert found.error == ("error=true" in text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"RUN a\nRUN \xff", 2, "UTF-8"),
        (b"RUN a\n\nRUN \0", 3, "NUL"),
        (b"RUN " + b"a" * LINE_LIMIT, 1, "a line of more than"),
        (b"#" * (SIZE_LIMIT + 1), 0, "larger than"),
        (b"RUN a\n" * (INSTRUCTION_LIMIT + 1), INSTRUCTION_LIMIT + 1, "instructions"),
        (b"", 0, "no instructions"),
        (b"# only\n\n", 0, "no instructions"),
        (b"# escape=x\nRUN a", 1, "only \\ and `"),
        (b"# escape=`\n# escape=`\nRUN a", 2, "twice"),
        (b"# syntax=example.org/other\nRUN a", 1, "only docker/dockerfile"),
        (b"#!/bin/sh\n# syntax=example.org/other\nRUN a", 2, "only docker/dockerfile"),
        (b"# check=foo\nRUN a", 1, "no option"),
        (b"RUN a\nRUN <<EOF\nEOFX\n", 2, "has no end"),
        (b"RUN <<'EOF\nEOF\n", 1, "not closed"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_texts_are_refused_with_their_line(text: bytes, line: int, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        read(text)
    assert caught.value.line == line
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("docker/dockerfile", True),
        ("docker/dockerfile:1.7-labs", True),
        ("docker.io/docker/dockerfile:1", True),
        ("docker/dockerfile-upstream:master", True),
        ("docker/dockerfile:1@sha256:" + "a" * 64, True),
        ("docker/dockerfile2", False),
        ("example.org/docker/dockerfile", False),
        ("", False),
    ],
)
def test_frontends(name: str, is_known: bool) -> None:
    if is_known:
        check_syntax(name)
    else:
        with pytest.raises(DockerfileError):
            check_syntax(name)


@pytest.mark.parametrize(
    ("line", "flags", "rest"),
    [
        ("COPY --a --b=c d", ("--a", "--b=c"), "d"),
        ("COPY --a='b c' --d=\"e f\" g", ("--a=b c", "--d=e f"), "g"),
        ("COPY '--a' g", (), "'--a' g"),
        ("COPY --a -- --b c", ("--a",), "--b c"),
        ("COPY --a\\ b c", ("--a b",), "c"),
        ("COPY a --b", (), "a --b"),
        ("COPY --a", ("--a",), ""),
    ],
)
def test_flags_are_set_apart(line: str, flags: tuple[str, ...], rest: str) -> None:
    (node,) = read(line).nodes
    assert (node.flags, node.rest) == (flags, rest)


def test_lines_and_comments_of_nodes() -> None:
    text = "# a b\nFROM a\n\n# x\n\n# c\n# d\nRUN a \\\n b <<E\n# body\nE\nRUN c"
    nodes = read(text).nodes
    assert [(node.line, node.last, node.comments) for node in nodes] == [
        (2, 2, ("a b",)),
        (8, 11, ("c", "d")),
        (12, 12, ()),
    ]
    assert nodes[1].original == "RUN a  b <<E"


def test_empty_continuations_are_reported() -> None:
    (finding,) = read("RUN a \\\n\n\n b\nRUN a \\\n# comment\n b").warnings
    assert (finding.rule, finding.line, finding.last) == ("NoEmptyContinuation", 1, 4)


# (instructions, the here-documents), from parser_heredoc_test.go.
HEREDOCS = [
    ("USER <<INVALID\nRUN x", []),
    ("RUN <<EMPTY\nEMPTY", [Heredoc("EMPTY")]),
    ("RUN 3<<EMPTY2\nEMPTY2", [Heredoc("EMPTY2", 3)]),
    ('RUN "<<NOHEREDOC"', []),
    ("RUN <<INDENT\n\tfoo\n\tbar\nINDENT", [Heredoc("INDENT", content="\tfoo\n\tbar\n")]),
    (
        "RUN <<-UNINDENT\n\tbaz\n\tquux\n\tUNINDENT",
        [Heredoc("UNINDENT", strips_tabs=True, content="\tbaz\n\tquux\n")],
    ),
    (
        "RUN <<-'NOEXPAND'\n\tdon't expand $NAME\nNOEXPAND",
        [Heredoc("NOEXPAND", 0, False, True, "\tdon't expand $NAME\n")],
    ),
    ("RUN <<C\n# internal\necho \\\nC", [Heredoc("C", content="# internal\necho \\\n")]),
    ("RUN --mount=type=cache,target=/foo <<M\nx\nM", [Heredoc("M", content="x\n")]),
    (
        "COPY <<FILE1 <<FILE2 /dest\n1\nFILE1\n2\nFILE2",
        [Heredoc("FILE1", content="1\n"), Heredoc("FILE2", content="2\n")],
    ),
    (
        "COPY <<X <<Y /dest\nY\nX\nX\nY",
        [Heredoc("X", content="Y\n"), Heredoc("Y", content="X\n")],
    ),
    ("RUN <<eo'f'\necho\neof", [Heredoc("eof", 0, False, False, "echo\n")]),
    ("RUN <<eo\\'f\necho\neo'f", [Heredoc("eo'f", content="echo\n")]),
    ("RUN <<'e'o\\'f\necho\neo'f", [Heredoc("eo'f", 0, False, False, "echo\n")]),
    ("RUN <<'one two'\necho\none two", [Heredoc("one two", 0, False, False, "echo\n")]),
    ("RUN <<$EOF\n$EOF", [Heredoc("$EOF")]),
    ("RUN <<  EOF  > foo\nEOF", [Heredoc("EOF")]),
    ("RUN <<E\r\na\r\nE\r\n", [Heredoc("E", content="a\r\n")]),
    ('RUN ["<<EOF"]', []),
    ("ONBUILD COPY <<E /\na\nE", [Heredoc("E", content="a\n")]),
    ("ONBUILD USER <<E", []),
    ("RUN cat <<<E", []),
]


@pytest.mark.parametrize(("text", "expected"), HEREDOCS)
def test_here_documents(text: str, expected: list[Heredoc]) -> None:
    assert list(read(text).nodes[0].heredocs) == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN <<EOF", ["EOF"]),
        ("RUN <<- EOF", ["EOF"]),
        ("RUN << -EOF", ["-EOF"]),
        ("RUN 4<<EOF <<EOF2", ["EOF", "EOF2"]),
        ("RUN '<<EOF'", []),
        ('RUN "<<EOF"', []),
    ],
)
def test_names_in_a_line(line: str, names: list[str]) -> None:
    assert [heredoc.name for heredoc in find_heredocs(line)] == names


@pytest.mark.parametrize("word", ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh"])
def test_other_words_begin_none(word: str) -> None:
    assert parse_heredoc(word) is None


def test_bodies_lose_their_tabs() -> None:
    assert Heredoc("E", strips_tabs=True, content="\t\ta\n\tb\t\n").body == "a\nb\t\n"


def test_lines_around_a_mistake_are_shown_without_terminal_escapes() -> None:
    text = "FROM a\nRUN b\n\n\x1b[31mRUNN \\\n  c\n\nRUN\td\nRUN e"
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    error = caught.value
    assert str(error).startswith("Dockerfile line 4: ")
    assert str(error).isprintable()
    assert show_lines(text, error.line, error.last) == [
        "2 |     RUN b",
        "3 |",
        "4 | >>> \\x1b[31mRUNN \\",
        "5 | >>>   c",
        "6 |",
        "7 |     RUN     d",
    ]
