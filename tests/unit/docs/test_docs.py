"""The documentation is true: its commands parse, the short ones run and say what is written.

A fenced block ```console has commands behind `$ ` and their output. Each command of rless is
read by the command line's own parser. A block ```console run is executed, in a new home
directory, and its output compared; `...` stands for any text.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rootless.cli import main as cli
from rootless.cli import run
from rootless.cli.parse import HelpWanted, parse
from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parents[3]
PAGES = sorted([*TREE.glob("*.md"), *TREE.glob("docs/**/*.md")])


class Step(NamedTuple):
    """One command of a block, and the lines that follow it."""

    command: str
    output: str


class Block(NamedTuple):
    """One fenced block."""

    place: str
    run: bool
    steps: list[Step]


def blocks() -> Iterator[Block]:
    """Read the console blocks of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```console( run)?\n(.*?)^\1```", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            lines = [line.removeprefix(match[1]) for line in match[3].splitlines()]
            steps = [
                Step(head.replace("\\\n", " "), "\n".join(rest.splitlines()))
                for head, rest in re.findall(
                    r"^\$ ((?:.*\\\n)*.*)\n?((?:(?!\$ ).*\n?)*)", "\n".join(lines), re.M
                )
            ]
            yield Block(f"{page.relative_to(TREE)}:{line}", bool(match[2]), steps)


BLOCKS = list(blocks())
COMMANDS = [(block.place, step.command) for block in BLOCKS for step in block.steps]


def simple_commands(text: str) -> Iterator[list[str]]:
    """Split a shell line at its operators; redirections are left out."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.strip("();<>|&"):
            command.append(re.sub("^~/", "/home/me/", word))
        elif set(word) & set("<>"):
            skip = True
        else:
            yield command
            command = []
    yield command


@pytest.mark.parametrize(("place", "text"), COMMANDS, ids=[f"{p} {c}" for p, c in COMMANDS])
def test_a_command_is_one(place: str, text: str) -> None:
    for command in simple_commands(text):
        words = [word for word in command if command.index(word) or "=" not in word]
        if not words:
            continue
        if words[0].startswith("./"):
            assert os.access(TREE / words[0], os.X_OK), f"{place}: {words[0]} is no program"
        elif words[0].endswith("rless") and words[1:]:
            check_line(words[1:])


def check_line(words: list[str]) -> None:
    """Read a line of rless as the program does, up to where it would begin to work."""
    while words and words[0].startswith("-"):
        if words.pop(0) in ("--version", "--help"):
            return
    verb, args = cli.find(words)
    try:
        values, rest = parse(cli.load(verb).VERB, args)
    except HelpWanted:
        return
    if verb == "run":
        run.build(values, rest)


def test_the_check_finds_mistakes() -> None:
    for line in ("rn host:", "run --no-such host:", "run", "ps --user x", "run --memory 1g host:"):
        with pytest.raises(RlessError):
            check_line(line.split())
    found = list(simple_commands("A=1 rless run x 2>/dev/null | grep 'a;b' && rless ps # all"))
    assert found == [["A=1", "rless", "run", "x", "2"], ["grep", "a;b"], ["rless", "ps"]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Make a home directory, with rless on its PATH."""
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "rless"
    launcher.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(TREE))} exec {shlex.quote(sys.executable)} -B"
        ' -m rootless "$@"\n'
    )
    launcher.chmod(0o755)
    yield tmp_path
    shell(tmp_path, "rless ps -aq | xargs -r rless rm -f; rless unshare rm -rf .local")


def shell(home: Path, command: str) -> str:
    """Run a line as a user would type it; return what it says."""
    keep = {name: os.environ[name] for name in ("XDG_RUNTIME_DIR",) if name in os.environ}
    path = f"{home}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=home,
        env={"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", **keep},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout.rstrip("\n")


RUN = [block for block in BLOCKS if block.run]


@pytest.mark.needs("ordinary user", "user namespaces", "subordinate ids", "libseccomp")
@pytest.mark.parametrize("block", RUN, ids=[block.place for block in RUN])
def test_a_block_runs(block: Block, home: Path) -> None:
    for command, expected in block.steps:
        # A container that was just started may need a moment before it has said something.
        if " logs " in command:
            shell(home, f'for i in $(seq 50); do [ -n "$({command})" ] && break; sleep 0.1; done')
        said = shell(home, command)
        pattern = re.escape(expected.rstrip("\n")).replace(re.escape("..."), "(?s:.*)")
        assert re.fullmatch(pattern, said), f"{block.place}: $ {command}\n{said}"


def test_the_table_of_errors_is_current() -> None:
    done = subprocess.run(
        [sys.executable, TREE / "scripts/errors-table"], stdout=subprocess.PIPE, text=True
    )
    current = (TREE / "docs/errors.md").read_text(encoding="utf-8")
    assert done.stdout == current, "run scripts/errors-table > docs/errors.md"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_paths_of_the_source_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:rootless|helpers|scripts|tests)/[\w./-]+)`", text):
            if "*" not in path and path != "rootless/bin/rless-init":  # made at install
                assert (TREE / path).exists(), f"{page}: {path}"
