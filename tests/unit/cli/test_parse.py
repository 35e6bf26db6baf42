"""The grammar of the command line, and its agreement with click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.cli import click_app, parse
from rootless.cli.options import GROUPS, REFUSED, RUN
from rootless.cli.parse import HelpWanted, Verb
from rootless.errors import RlessError

if TYPE_CHECKING:
    from rootless.cli.parse import Refused, Row

STOP = Verb(
    "stop",
    "CONTAINER",
    (
        (
            "Options",
            (
                ("--timeout -t", "SECONDS", "value", "timeout", "seconds", ""),
                ("--all -a", "", "flag", "all", "boolean", ""),
            ),
        ),
    ),
    (("--signal -s", "SIGNAL", "not built yet", ""),),
)
SAMPLES = [
    "", "1", "0", "-1", "64m", "x", "a=b", "=", "true", "/a", "/a:/b", "/a:/b:ro", "./d:/e",
    "v1:/e", "private", "host", "none", "container:c", "linux/amd64", "nofile=1:2",
    "net.ipv4.ip_forward=1",
    "80:80", "127.0.0.1:80:90/udp", "h:1.2.3.4", "h:::1", "8.8.8.8", "NET_ADMIN", "ALL", "SIGTERM",
    "type=tmpfs,dst=/t", "type=bind,src=/a,dst=/b,ro", "stdout", "always", "no-new-privileges",
    "overlay", "keep-id", "/dev/null", "no", "--rm", "-i", "--", "é", "\x1b[2J", "a b", "-e",
    "-a=1", " x=1 ", "-x ", "--a=b",
]  # fmt: skip


def right(row: Row) -> list[str]:
    """Return the samples that are good values of a flag."""
    found = []
    for text in SAMPLES:
        try:
            parse.convert(row, row[0], text)
        except RlessError:
            continue
        found.append(text)
    return found


ROWS = [row for _, rows in GROUPS for row in rows]
RIGHT = {row[0]: right(row) for row in ROWS}
FREE = [row for row in ROWS if len(RIGHT[row[0]]) > 10]  # nearly any text is a value of these


def both(verb: Verb, argv: list[str]) -> tuple[object, object]:
    """Return what the table parser and click say: values by flag and arguments, or "error"."""
    try:
        found, args = parse.tokenize(verb, argv)
        values: dict[str, list[object]] = {}
        for row, name, text in found:
            values.setdefault(row[0].split()[0], []).append(parse.convert(row, name, text))
        for row in (row for _, rows in verb.groups for row in rows):
            if row[2] in ("flag", "optional") and row[0].split()[0] in values:
                values[row[0].split()[0]] = [True]
        table: object = values, args
    except RlessError:
        table = "error"
    try:
        by_click: object = click_app.read(verb, argv)
    except (RlessError, click.UsageError):
        by_click = "error"
    return table, by_click


@st.composite
def flags(draw: st.DrawFn) -> list[str]:
    row: Row = draw(st.sampled_from(ROWS) | st.sampled_from(FREE))
    name = draw(st.sampled_from(row[0].split()))
    if row[2] in ("flag", "optional"):
        return [name]
    good = st.sampled_from(RIGHT[row[0]] or [""])
    value = draw(st.one_of(*[good] * 5, st.sampled_from(SAMPLES), st.text(max_size=8)))
    if len(name) > 2:
        return draw(st.sampled_from([[name, value], [f"{name}={value}"]] * 5 + [[name]]))
    # -n=VALUE is pflag's alone: see test_short_flag_takes_equals
    joined = (
        [] if value.startswith("=") or not value else [[f"{name}{value}"], [f"-it{name[1]}{value}"]]
    )
    return draw(st.sampled_from([[name, value], *joined]))


WORDS = st.sampled_from(["--", "-", "", "image", "-Z", "--bogus", "--bogus=1", "-iZ", "--=", "---"])
REFUSALS = st.sampled_from([row[0].split()[0] for row in REFUSED]).map(lambda name: [name, "1"])


@settings(max_examples=1000, deadline=None, database=None)
@given(
    st.lists(flags() | st.just(["-it"]) | st.just(["-di"]), max_size=4),
    st.one_of(*[st.just([])] * 3, st.lists(WORDS.map(lambda word: [word]) | REFUSALS, max_size=1)),
    st.lists(st.text(max_size=4) | st.sampled_from(SAMPLES), max_size=4),
)
def test_click_agrees_about_run(
    before: list[list[str]], odd: list[list[str]], after: list[str]
) -> None:
    argv = [word for words in [*before, *odd] for word in words] + after
    if "--help" in argv:
        return
    table, by_click = both(RUN, argv)
    assert table == by_click


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "-t",
                "5",
                "-t5",
                "--timeout=7",
                "--timeout",
                "-a",
                "-at",
                "-at3",
                "--all",
                "c1",
                "--",
                "-x",
                "",
            ]
        ),
        max_size=7,
    )
)
def test_click_agrees_about_flags_after_arguments(argv: list[str]) -> None:
    table, by_click = both(STOP, argv)
    assert table == by_click


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(flags(), max_size=3), st.sampled_from(["true", "1", "T", "TRUE"]))
def test_switch_with_true_is_the_bare_switch(lines: list[list[str]], true: str) -> None:
    """`--rm=true` and `-i=true`, which click lacks, are read as `--rm` and `-i`."""
    switches = {
        name for _, rows in GROUPS for row in rows if row[2] == "flag" for name in row[0].split()
    } - {"--disable-content-trust"}
    needs_value = {name for name in RUN.index() if name not in switches} - {"--explain"}
    lines = [words for words in lines if len(words) > 1 or words[0] not in needs_value]
    plain = [word for words in lines for word in words] + ["image"]
    spelled = [
        word
        for words in lines
        for word in ([f"{words[0]}={true}"] if words[0] in switches else words)
    ] + ["image"]
    assert both(RUN, spelled)[0] == both(RUN, plain)[0]


def values(*argv: str) -> dict[str, Any]:
    return parse.parse(RUN, [*argv, "image"])[0]


def test_flags_end_at_the_image() -> None:
    found, args = parse.parse(RUN, ["--rm", "busybox", "ls", "-l", "--rm=x", "--"])
    assert found == {"rm": True}
    assert args == ["busybox", "ls", "-l", "--rm=x", "--"]


def test_double_dash_ends_flags() -> None:
    assert parse.parse(RUN, ["-i", "--", "-t", "x"]) == ({"interactive": True}, ["-t", "x"])


def test_short_flags_combine() -> None:
    assert values("-dit") == {"detach": True, "interactive": True, "tty": True}
    assert values("-iteFOO=1") == {"interactive": True, "tty": True, "env": ["FOO=1"]}
    assert values("-ite", "FOO=1")["env"] == ["FOO=1"]


def test_short_flag_takes_equals() -> None:
    assert values("-e=FOO=1")["env"] == ["FOO=1"]
    assert values("-i=false") == {"interactive": False}
    assert values("-it=0") == {"interactive": True, "tty": False}


def test_switches_take_a_truth_value() -> None:
    assert values("--rm=false", "--sig-proxy=0") == {"rm": False, "sig_proxy": False}
    with pytest.raises(RlessError, match="--rm: 'maybe' is neither true nor false"):
        values("--rm=maybe")


def test_last_value_wins_and_lists_grow() -> None:
    assert values("--name", "aa", "--name=bb")["name"] == "bb"
    assert values("-e", "A=1", "--env=B=2", "-eC=3")["env"] == ["A=1", "B=2", "C=3"]


def test_optional_value_needs_equals() -> None:
    found, args = parse.parse(RUN, ["--explain", "json"])
    assert (found, args) == ({"explain": "text"}, ["json"])
    assert values("--explain=json") == {"explain": "json"}
    with pytest.raises(RlessError, match="--explain: 'xml' is not one of text, json"):
        values("--explain=xml")


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(RlessError) as caught:
        values("--foo")
    assert str(caught.value) == "unknown flag: --foo; see 'rless run --help'"
    with pytest.raises(RlessError, match="unknown flag: -Z in -iZ"):
        values("-iZ")
    with pytest.raises(
        RlessError, match=r"unknown flag: --privilege \(did you mean --privileged\?\)"
    ):
        values("--privilege")


def test_flag_needs_its_value() -> None:
    with pytest.raises(RlessError, match="flag needs a value: --name"):
        parse.parse(RUN, ["--name"])
    with pytest.raises(RlessError, match="flag needs a value: -e"):
        parse.parse(RUN, ["-ie"])


def test_value_may_look_like_a_flag() -> None:
    assert values("-e", "--rm")["env"] == ["--rm"]
    assert values("-e--rm")["env"] == ["--rm"]


def test_values_are_taken_as_they_are() -> None:
    assert values("-e", " a= b ", "--env= c ")["env"] == [" a= b ", " c "]


def test_wrong_value_says_what_is_expected() -> None:
    with pytest.raises(RlessError) as caught:
        values("--ulimit", "nofile")
    assert str(caught.value) == "--ulimit: 'nofile' has no '='; expected --ulimit NAME=SOFT[:HARD]"
    assert caught.value.exit_code == 125


@pytest.mark.parametrize("line", (["--help"], ["-it", "--help"], ["--ulimit", "bad", "--help"]))
def test_help_wins(line: list[str]) -> None:
    with pytest.raises(HelpWanted):
        parse.parse(RUN, line)


def test_h_is_the_hostname_of_run_and_help_elsewhere() -> None:
    assert values("-h", "box")["hostname"] == "box"
    with pytest.raises(HelpWanted):
        parse.parse(STOP, ["-h"])


def test_help_after_the_image_belongs_to_the_command() -> None:
    assert parse.parse(RUN, ["image", "--help"])[1] == ["image", "--help"]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0].split()[0])
def test_refused_flags_say_why(row: Refused) -> None:
    for name in row[0].split():
        with pytest.raises(RlessError, match=f"^{row[0].split()[0]} is not supported: ") as caught:
            values(name, "1")
        assert caught.value.exit_code == 125


def test_flag_is_refused_with_and_without_its_value() -> None:
    for line in (["--kernel-memory=64m"], ["--kernel-memory", "64m"], ["--kernel-memory"]):
        with pytest.raises(RlessError, match="is not supported"):
            parse.parse(RUN, line)


def test_refused_switch_may_be_off() -> None:
    assert values("--oom-kill-disable=false") == {}


def test_mounts_keep_their_order() -> None:
    found = values("-v", "/a:/a", "--tmpfs", "/b", "--mount", "type=tmpfs,dst=/c", "-v/d:/d")
    assert [mount.target for mount in found["mounts"]] == ["/a", "/b", "/c", "/d"]


def test_number_of_arguments_is_checked() -> None:
    one = Verb("x", "NAME", least=1, most=1)
    with pytest.raises(RlessError, match="'rless x' needs at least an argument"):
        parse.parse(one, [])
    with pytest.raises(RlessError, match="'rless x' takes at most 1 argument"):
        parse.parse(one, ["a", "b"])
