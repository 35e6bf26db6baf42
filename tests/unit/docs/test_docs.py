"""The documentation is true: its commands parse, the short ones run and say what is written.

A fenced block ```console has commands behind `$ ` and their output. Each command of rless is
read by the command line's own parser, and no more: it needs what a test has not, such as the
internet or systemd. A block ```console run is executed, in a new home directory, and its output
compared; `...` stands for any text. ```console run registry has busybox in its home and in a
registry, and ports of its own in place of localhost:5000 and 8080; ```console run jenkins has
jenkins/jenkins in place of that of docker.io; ```console run engines has debian in place of that of
docker.io, cwltool and snakemake, and the files of the page, whose blocks begin ```LANGUAGE NAME.
What a reader ends by ctrl-c, `-f`, is ended so; what is for a terminal, `-it`, gets one.
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

from rootless import config
from rootless.cli import verb_table
from rootless.cli.parse import HelpWanted, parse
from rootless.cli.verbs.container import run
from rootless.errors import RlessError
from tests.lib import engines, images, jenkins
from tests.lib.product import launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parents[3]
PAGES = sorted([*TREE.glob("*.md"), *TREE.glob("docs/**/*.md")])
_CONSOLE = re.compile(
    r"^( *)```console( run(?: (registry|jenkins|engines))?)?\n(.*?)^\1```", re.M | re.S
)
_FILE = re.compile(r"^```(?!console)\w+ (\S+)\n(.*?)^```", re.M | re.S)


class Step(NamedTuple):
    """One command of a block, and the lines that follow it."""

    command: str
    output: str


class Block(NamedTuple):
    """One fenced block."""

    place: str
    run: bool
    served: str
    steps: list[Step]


def blocks() -> Iterator[Block]:
    """Read the console blocks of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _CONSOLE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            lines = [line.removeprefix(match[1]) for line in match[4].splitlines()]
            steps = [
                Step(head.replace("\\\n", " "), "\n".join(rest.splitlines()))
                for head, rest in re.findall(
                    r"^\$ ((?:.*\\\n)*.*)\n?((?:(?!\$ ).*\n?)*)", "\n".join(lines), re.M
                )
            ]
            yield Block(f"{page.relative_to(TREE)}:{line}", bool(match[2]), match[3] or "", steps)


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
            if command and command[-1].isdecimal():
                command.pop()  # the descriptor: 2>
        else:
            yield command
            command = []
    yield command


@pytest.mark.parametrize(("place", "text"), COMMANDS, ids=[f"{p} {c}" for p, c in COMMANDS])
def test_documented_command_parses(place: str, text: str) -> None:
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
    verb, args = verb_table.find(words)
    try:
        values, rest = parse(verb_table.load(verb).VERB, args)
    except HelpWanted:
        return
    if verb in ("run", "create"):
        run.build(values, rest)


def test_check_finds_mistakes() -> None:
    for line in (
        "rn host:",
        "run --no-such host:",
        "run",
        "ps --user x",
        "run --cpu-count 1 host:",
    ):
        with pytest.raises(RlessError):
            check_line(line.split())
    found = list(simple_commands("A=1 rless run x 2>/dev/null | grep 'a;b' && rless ps # all"))
    assert found == [["A=1", "rless", "run", "x"], ["grep", "a;b"], ["rless", "ps"]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Make a home directory, with rless on its PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rless").symlink_to(launcher()[0])
    runtime = tmp_path / "bin" / "rless-oci"
    runtime.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(TREE))} exec {shlex.quote(sys.executable)} -B"
        ' -c "from rootless.launch import start; start(\'rootless.runtime.commands.main\')" "$@"\n'
    )
    runtime.chmod(0o755)
    yield tmp_path
    shell(tmp_path, "rless ps -aq | xargs -r rless rm -f; rless unshare rm -rf .local")
    if (tmp_path / ".gnupg").exists():
        shell(tmp_path, "gpgconf --kill all")


def shell(home: Path, command: str) -> str:
    """Run a line as a user would type it; return what it says."""
    keep = {name: os.environ[name] for name in ("XDG_RUNTIME_DIR",) if name in os.environ}
    reader, writer = os.pipe()  # a keyboard at which nobody types
    stdin = subprocess.DEVNULL
    if " -it " in command:
        command, stdin = f"script -qec {shlex.quote(command)} /dev/null", reader
    if re.search(r" (-f|--follow) ", command) and " logs " in command:
        command = f"timeout --signal INT 2 {command}"
    path = f"{home}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=home,
            env={"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", **keep},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
    finally:
        os.close(reader)
        os.close(writer)
    return done.stdout.replace("\r\n", "\n").rstrip("\n")


RUN = [block for block in BLOCKS if block.run and not block.served]
SERVED = [block for block in BLOCKS if block.served == "registry"]
ENGINES = [block for block in BLOCKS if block.served == "engines"]
JENKINS = [block for block in BLOCKS if block.served == "jenkins"]
NEEDS = pytest.mark.needs("ordinary user", "user namespaces", "subordinate ids", "libseccomp")


@NEEDS
@pytest.mark.parametrize("block", RUN, ids=[block.place for block in RUN])
def test_documented_block_runs(block: Block, home: Path) -> None:
    follow(block, home, {})


@NEEDS
@pytest.mark.needs("busybox", "docker-registry", "curl", "gpg", "openssl", "pasta", "tun")
@pytest.mark.parametrize("block", SERVED, ids=[block.place for block in SERVED])
def test_documented_block_with_a_registry_runs(block: Block, home: Path, tmp_path: Path) -> None:
    with images.registry() as host:
        images.push(images.busybox_image(), f"{host}/busybox:latest")
        follow(block, home, {"localhost:5000": host, "8080": str(images.free_port())})


@NEEDS
@pytest.mark.needs("curl", *jenkins.NEEDS)
@pytest.mark.parametrize("block", JENKINS, ids=[block.place for block in JENKINS])
def test_tutorial_runs(block: Block, home: Path) -> None:
    with images.registry() as host:
        images.push(jenkins.image(), f"{host}/{jenkins.NAME}:latest")
        configure(home, images.registries_conf(host, jenkins.NAME))
        places = {}
        for number in ("8080", "50000"):
            real = str(images.free_port())
            for before, after in (("-p ", ":"), ("localhost:", "/"), ("0.0.0.0:", "")):
                places[f"{before}{number}{after}"] = f"{before}{real}{after}"
        follow(block, home, places)


@NEEDS
@pytest.mark.needs(*engines.NEEDS)
@pytest.mark.parametrize("block", ENGINES, ids=[block.place for block in ENGINES])
def test_workflow_runs(block: Block, home: Path) -> None:
    page = (TREE / block.place.partition(":")[0]).read_text(encoding="utf-8")
    for name, text in _FILE.findall(page):
        (home / name).write_text(text)
    engines.install(home / "bin")
    with images.registry() as host:
        images.push(engines.image(), f"{host}/{engines.NAME}:latest")
        configure(home, images.registries_conf(host, engines.NAME))
        follow(block, home, {})


def configure(home: Path, registries: str) -> None:
    """Write the user's registries.conf."""
    conf = home / ".config/containers/registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(registries)


def follow(block: Block, home: Path, places: dict[str, str]) -> None:
    """Run the commands of a block, and compare what they say."""
    for written, promised in block.steps:
        command, expected = written, promised.rstrip("\n")
        for place, real in places.items():
            command, expected = command.replace(place, real), expected.replace(place, real)
        # A container that was just started may need a moment before it has said something.
        if " logs " in command:
            once = command.replace(" -f ", " ")
            shell(home, f'for i in $(seq 50); do [ -n "$({once})" ] && break; sleep 0.1; done')
        if command.startswith("curl "):
            command = command.replace("curl ", "curl --retry 9 --retry-all-errors ", 1)
        said = shell(home, command)
        pattern = re.escape(expected).replace(re.escape("..."), "(?s:.*)")
        assert re.fullmatch(pattern, said), f"{block.place}: $ {command}\n{said}"


def test_table_of_errors_is_current() -> None:
    done = subprocess.run(
        [sys.executable, TREE / "scripts/errors-table"], stdout=subprocess.PIPE, text=True
    )
    current = (TREE / "docs/errors.md").read_text(encoding="utf-8")
    assert done.stdout == current, "run scripts/errors-table > docs/errors.md"


def test_links_are_valid() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_paths_of_the_source_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:rootless|helpers|scripts|tests)/[\w./-]+)`", text):
            if "*" not in path and path != "rootless/bin/rless-init":  # made at install
                assert (TREE / path).exists(), f"{page}: {path}"


def test_each_page_is_linked() -> None:
    listed = (TREE / "docs/README.md").read_text(encoding="utf-8")
    assert "](docs/README.md)" in (TREE / "README.md").read_text(encoding="utf-8")
    for page in TREE.glob("docs/**/*.md"):
        name = str(page.relative_to(TREE / "docs"))
        assert name == "README.md" or f"]({name})" in listed, f"docs/README.md has no {name}"


def test_decisions_are_numbered_in_order() -> None:
    records = sorted(TREE.glob("docs/decisions/*.md"))
    for number, record in enumerate(records, 1):
        assert record.name.startswith(f"{number:04}-")
        lines = record.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {number}. ")
        assert lines[2].startswith("Status: ")


def test_commands_stand_in_fenced_blocks() -> None:
    """What is only indented is looked at by nobody."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"^ {4}(?:\$ )?rless (?!run -p.*\n      )", text, re.M), page


def test_all_configuration_keys_are_documented() -> None:
    text = (TREE / "docs/configuration.md").read_text(encoding="utf-8")
    for section, keys in config.KEYS.items():
        assert f"[{section}]" in text
        for key in keys:
            assert f"`{key}`" in text, key


# -- security.md -----------------------------------------------------------------------------


def classes() -> Iterator[tuple[int, list[str], list[str]]]:
    """Read the table of attacks: number, places of the defence, tests."""
    text = (TREE / "docs/security.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (\d+) \|(.*)\|$", text, re.M):
        *_, where, tests = row[1].split(" | ")
        yield int(row[0]), re.findall(r"`(\S+)`|\]\((\S+)\)", where), re.findall(r"`(\S+)`", tests)


def test_each_attack_class_names_code_and_tests() -> None:
    found = list(classes())
    assert [number for number, *_ in found] == list(range(1, len(found) + 1))
    assert len(found) >= 48
    for number, where, tests in found:
        assert where, number
        assert tests, number
        for path in tests:
            assert number in told(TREE / "tests" / path), f"tests/{path} has no class {number}"


def told(path: Path) -> set[int]:
    """Return the classes that a file of tests says it is about: "classes 1, 2 and 31 to 34"."""
    text = re.sub(r"\s*\n\s*#? ?", " ", path.read_text(encoding="utf-8"))
    numbers = {int(number) for number in re.findall(r"def test_(\d+)_", text)}
    for phrase in re.findall(r"[Cc]lass(?:es)? ((?:\d+(?:, | and | to )?)+)", text):
        numbers |= {int(number) for number in re.findall(r"\d+", phrase)}
        for first, last in re.findall(r"(\d+) to (\d+)", phrase):
            numbers |= set(range(int(first), int(last) + 1))
    return numbers
