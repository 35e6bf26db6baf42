"""The public test files of BuildKit's parser: nodes as S-expressions, expansion, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rootless.dockerfile import DockerfileError, parse
from rootless.dockerfile.arguments import (
    blank_words,
    command_words,
    health_words,
    list_words,
    pairs,
)
from rootless.dockerfile.reader import Node, read, split_node
from rootless.dockerfile.words import Expander, split

DATA = Path(__file__).parents[2] / "data/buildkit"
PARSER = DATA / "parser"


GO_ESCAPES = {char: f"\\{name}" for char, name in zip('\\"\b\f\n\r\t', '\\"bfnrt', strict=True)}


def go_quote(text: str) -> str:
    return '"' + text.translate(str.maketrans({**GO_ESCAPES, "\0": r"\x00"})) + '"'


def triples(name: str) -> Callable[[Node], list[str]]:
    def words(node: Node) -> list[str]:
        found, is_legacy = pairs(name, node.rest, node.escape)
        return [word for key, value in found for word in (key, value, "" if is_legacy else "=")]

    return words


WORDS: dict[str, Callable[[Node], list[str]]] = {
    **dict.fromkeys(("add", "copy", "volume"), lambda node: list_words(node.rest)),
    **dict.fromkeys(("from", "expose"), lambda node: blank_words(node.rest)),
    **dict.fromkeys(
        ("cmd", "entrypoint", "run", "shell"), lambda node: command_words(node.rest)[0]
    ),
    "arg": lambda node: split(node.rest, node.escape),
    "env": triples("ENV"),
    "label": triples("LABEL"),
    "healthcheck": lambda node: health_words(node.rest)[0],
}


def dump(node: Node) -> str:
    """Return a node as BuildKit's Dump() writes it."""
    name = node.name.lower()
    parts = [name]
    if node.flags:
        parts.append("[" + " ".join(map(go_quote, node.flags)) + "]")
    if name == "onbuild":
        inner, flags, rest = split_node(node.rest, node.escape)
        child = Node(inner, flags, rest, node.rest, node.line, node.last, node.escape)
        parts.append(dump(child))
    else:
        words = WORDS.get(name, lambda node: [node.rest] if node.rest else [])
        parts += map(go_quote, words(node))
    return f"({' '.join(parts)})"


@pytest.mark.parametrize("name", sorted(path.name for path in (PARSER / "testfiles").iterdir()))
def test_files_are_read_as_by_buildkit(name: str) -> None:
    folder = PARSER / "testfiles" / name
    source = read((folder / "Dockerfile").read_bytes())
    assert [dump(node) for node in source.nodes] == (folder / "result").read_text().splitlines()


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (PARSER / "testfiles-negative").iterdir())
)
def test_wrong_files_are_refused(name: str) -> None:
    with pytest.raises(DockerfileError):
        parse((PARSER / "testfiles-negative" / name / "Dockerfile").read_bytes())


def test_nodes_know_their_lines() -> None:
    source = read((PARSER / "testfile-line/Dockerfile").read_bytes())
    assert [(node.line, node.last) for node in source.nodes] == [(5, 5), (11, 12), (17, 31)]


def expansions() -> Iterator[tuple[str, str]]:
    for line in (DATA / "shell/envVarTest").read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            platform, text, expected = (part.strip() for part in line.split("|"))
            if platform in "AU":  # all, Unix
                yield text, expected


@pytest.mark.parametrize(("text", "expected"), list(expansions()))
def test_words_are_expanded_as_by_buildkit(text: str, expected: str) -> None:
    variables = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    if expected == "error":
        with pytest.raises(DockerfileError):
            Expander(variables).word(text)
    else:
        assert Expander(variables).word(text) == expected


def splittings() -> Iterator[tuple[dict[str, str], str, str]]:
    variables: dict[str, str] = {}
    for line in (DATA / "shell/wordsTest").read_text("utf-8").split("\n"):
        if line.startswith("ENV "):
            name, _, value = line[4:].lstrip().partition("=")
            variables[name] = value
        elif line.strip() and not line.startswith("#"):
            text, _, expected = line.partition("|")
            yield dict(variables), text.strip(), expected.lstrip()


@pytest.mark.parametrize(("variables", "text", "expected"), list(splittings()))
def test_words_are_split_as_by_buildkit(
    variables: dict[str, str], text: str, expected: str
) -> None:
    if expected == "error":
        with pytest.raises(DockerfileError):
            Expander(variables).words(text)
    else:
        assert Expander(variables).words(text) == expected.split(",")
