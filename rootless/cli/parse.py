"""Read a command line by an option table: Docker's grammar (pflag), without click.

The tables are tuples of strings, so that importing one costs next to nothing: a row is

    (names, metavar, kind, dest, converter, help)

`names` has the canonical long name first; short ones and hidden spellings follow. `kind` is
flag (true or false), value (the last one wins), list (all, in order), map (pairs) or optional
(a value only by `=`). `converter` names a function of `values`, or `module.function` of this
package. Rows may share a `dest`: their values then keep the order of the command line. A flag
that Docker has and rless refuses is

    (names, metavar, why, what to use)

The grammar: flags stop at the first argument for verbs that run a command; `--` ends them;
`--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, `-it`, `--flag=false`.
"""

from __future__ import annotations

import sys

from rootless.cli.flags import values
from rootless.errors import EXIT_TOOL, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[str, str, str, str, str, str]
    Refused: TypeAlias = tuple[str, str, str, str]
    Group: TypeAlias = tuple[str, tuple[Row, ...]]
    Found: TypeAlias = tuple[Row, str, str]  # row, the name as typed, the text of the value

HELP = ("--help", "", "flag", "help", "boolean", "Print usage")


class HelpWanted(Exception):  # noqa: N818  it is no error
    """--help was given; the caller gets the text from click."""


class Verb:
    """One verb: its arguments and its option table.

    Attributes:
        usage: the rest of the usage line.
        least, most: how many arguments it takes; most is None for any number.
        interspersed: flags may follow arguments (not for verbs that run a command).
        refused: flags of Docker that are known and refused.
        examples: (what it does, the command line) for help and manual.
        failure: the exit code of a failure that has none of its own; errors of usage have 125.
    """

    __slots__ = (
        *("examples", "failure", "groups", "interspersed", "least", "most", "name", "refused"),
        "usage",
    )

    def __init__(
        self,
        name: str,
        usage: str,
        groups: tuple[Group, ...] = (),
        refused: tuple[Refused, ...] = (),
        *,
        least: int = 0,
        most: int | None = None,
        interspersed: bool = True,
        failure: int = EXIT_TOOL,
        examples: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.examples = examples
        self.name = name
        self.usage = usage
        self.groups = groups
        self.refused = refused
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.failure = failure

    def index(self) -> dict[str, Row | Refused]:
        """Return the rows by each of their names, --help (and -h if it is free) too."""
        found: dict[str, Row | Refused] = {"-h": HELP, "--help": HELP}
        for row in self.refused:
            for name in row[0].split():
                found[name] = row
        for _, rows in self.groups:
            for option in rows:
                for name in option[0].split():
                    found[name] = option
        return found

    def see_help(self) -> str:
        """Return the hint that ends most messages."""
        return f"see 'rless {self.name} --help'"


def refusal(row: Refused) -> RlessError:
    """Return the error for a flag that Docker has and rless refuses."""
    return values.refuse(row[0].split()[0], row[2], row[3] or None)


def tokenize(verb: Verb, argv: Sequence[str]) -> tuple[list[Found], list[str]]:
    """Split `argv` into the flags with the text of their values, and the arguments.

    Raises:
        HelpWanted: --help is among the flags.
        RlessError: an unknown or refused flag, or one without its value.
    """
    index = verb.index()
    found: list[Found] = []
    args: list[str] = []
    words = iter(argv)
    for word in words:
        if len(word) < 2 or word[0] != "-":
            args.append(word)
            if not verb.interspersed:
                break
            continue
        if word == "--":
            break
        if word[1] == "-":
            name, equals, text = word.partition("=")
            cluster = ""
        else:
            name, cluster = word[:2], word[2:]
            equals = text = ""
        while True:
            row = index.get(name)
            if row is None:
                raise RlessError(_unknown(verb, name, word), verb.see_help())
            if cluster[:1] == "=" and len(cluster) > 1:
                equals, text, cluster = "=", cluster[1:], ""
            if len(row) == 4:
                # A refused switch may be turned off: that asks for nothing.
                if row[1] or not equals or values.boolean_of(text) is not False:
                    raise refusal(row)
            elif row[2] in ("flag", "optional"):
                if not equals:
                    text = "" if row[2] == "optional" else "true"
                found.append((row, name, text))
            else:
                if not equals and cluster:
                    text, cluster = cluster, ""
                elif not equals:
                    following = next(words, None)
                    if following is None:
                        raise RlessError(f"flag needs a value: {name}", verb.see_help())
                    text = following
                found.append((row, name, text))
            if not cluster:
                break
            name, cluster = f"-{cluster[0]}", cluster[1:]
            equals = text = ""
    args.extend(words)
    if any(row is HELP and values.boolean_of(text) for row, _, text in found):
        raise HelpWanted
    return found, args


def _unknown(verb: Verb, name: str, word: str) -> str:
    inside = f" in {word}" if word[1] != "-" and len(word) > 2 else ""
    flags = [known for known in verb.index() if len(known) > 2]
    return f"unknown flag: {name}{inside}{did_you_mean(name, flags) if len(name) > 3 else ''}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return " (did you mean ...?)" with the word of `known` that is spelled most like `word`.

    Letters that changed places come first: difflib sees "rnu" far from "run".
    """
    from difflib import get_close_matches

    turned = [one for one in known if sorted(one) == sorted(word)]
    near = turned or get_close_matches(word, known, 1, 0.75)
    return f" (did you mean {near[0]}?)" if near else ""


def help_text(row: Row) -> str:
    """Return what an option does, and whether it may be given several times."""
    return f"{row[5]} (repeatable)" if row[2] in ("list", "map") else row[5]


def _module(name: str) -> ModuleType:
    room = "verbs" if "." in name else "flags"
    path = f"rootless.cli.{room}.{name}"
    __import__(path)
    return sys.modules[path]


def convert(row: Row, name: str, text: str) -> object:
    """Return the plain value of one flag.

    Raises:
        RlessError: the value is wrong or cannot be honoured.
    """
    module, _, function = row[4].rpartition(".")
    try:
        return getattr(_module(module) if module else values, function)(text)
    except ValueError as error:
        expected = f"expected {name} {row[1]}" if row[1] else None
        raise RlessError(f"{name}: {text!r} {error}", expected) from None


def gather(found: list[Found]) -> dict[str, Any]:
    """Convert all values and return them by `dest`."""
    result: dict[str, Any] = {}
    for row, name, text in found:
        value: Any = convert(row, name, text)
        kind, dest = row[2], row[3]
        if row is HELP:
            continue  # --help=false
        if kind == "list":
            result.setdefault(dest, []).append(value)
        elif kind == "map":
            result.setdefault(dest, {})[value[0]] = value[1]
        else:
            result[dest] = value
    return result


def check_count(verb: Verb, args: list[str]) -> None:
    """Refuse a number of arguments that the verb does not take."""
    if len(args) < verb.least:
        some = "an argument" if verb.least == 1 else f"{verb.least} arguments"
        raise RlessError(f"'rless {verb.name}' needs at least {some}", verb.see_help())
    if verb.most is not None and len(args) > verb.most:
        most = "no argument" if not verb.most else f"at most {verb.most} argument(s)"
        raise RlessError(f"'rless {verb.name}' takes {most}", verb.see_help())


def parse(verb: Verb, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values by `dest`, only those given, and the arguments.

    Raises:
        HelpWanted: --help is among the flags.
        RlessError: the line is wrong; the message is for the user.
    """
    found, args = tokenize(verb, argv)
    result = gather(found)
    check_count(verb, args)
    return result, args
