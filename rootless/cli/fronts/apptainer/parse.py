"""Read a command line of Apptainer, and the variables that stand for its flags."""

from __future__ import annotations

import os

from rootless import log
from rootless.cli import parse as grammar
from rootless.cli.flags import values as values_of
from rootless.cli.fronts.apptainer.table import GLOBAL, GLOBAL_REFUSED, VARIABLES, FrontVerb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rootless.cli.parse import Found, Row

NO_HTTPS = "APPTAINER_NOHTTPS"
PREFIXES = ("APPTAINER_", "SINGULARITY_")  # the former wins


class UsageError(RlessError):
    """The command line is wrong; `verb` is the one that it is of."""

    def __init__(self, error: RlessError, verb: str) -> None:
        super().__init__(error.message, error.hint, 1)
        self.verb = verb


def variable(name: str) -> str | None:
    """Return the value of APPTAINER_NAME, else of SINGULARITY_NAME; None: neither is set."""
    found = [os.environ.get(prefix + name) for prefix in PREFIXES]
    if None not in found and found[0] != found[1]:
        log.warn(f"{PREFIXES[0]}{name} and {PREFIXES[1]}{name} differ: the former is taken")
    return found[0] if found[0] is not None else found[1]


def before_verb(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the global options, and the words from the verb on.

    Raises:
        UsageError: a wrong flag.
        HelpWanted: --help is among them.
        RlessError: a flag that is refused.
    """
    verb = FrontVerb("", "", "", GLOBAL, refused=GLOBAL_REFUSED, interspersed=False)
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        at += 1
    return _read(verb, argv[:at])[0], argv[at:]


def parse(verb: FrontVerb, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values by `dest`, those of variables among them, and the arguments.

    Raises:
        UsageError: a wrong flag, a wrong value, too few arguments.
        HelpWanted: --help is among the flags.
        RlessError: a flag that is refused.
    """
    values, args = _read(verb, argv)
    if len(args) < verb.least or (verb.most is not None and len(args) > verb.most):
        raise UsageError(RlessError(f"expected {verb.usage}", verb.see_help()), verb.name)
    # Where what speaks to registries finds them.
    if "authfile" in values:
        os.environ["REGISTRY_AUTH_FILE"] = values["authfile"]
    if values.get("no_https"):
        os.environ[NO_HTTPS] = "1"
    return values, args


def _read(verb: FrontVerb, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    try:
        found, args = grammar.tokenize(verb, argv)
    except RlessError as error:
        if error.message.startswith(("unknown flag", "flag needs")):
            raise UsageError(error, verb.name) from None
        raise
    given = {row[0] for row, _, _ in found}
    try:
        return grammar.gather([*_of_variables(verb, given), *found]), args
    except RlessError as error:
        raise UsageError(error, verb.name) from None


def _of_variables(verb: FrontVerb, given: set[str]) -> Iterator[Found]:
    """Yield the flags that variables set; a flag of the command line wins, lists are joined."""
    names = {name for name in os.environ if name.startswith(PREFIXES)}
    if not names:
        return
    for _, rows in verb.groups:
        for row in rows:
            if row[2] != "list" and row[0] in given:
                continue
            for name in variables_of(row):
                if not any(prefix + name in names for prefix in PREFIXES):
                    continue
                text = variable(name)
                if text:
                    yield row, f"${PREFIXES[0]}{name}", _switch(text) if row[2] == "flag" else text


def _switch(text: str) -> str:
    """Return a truth value of a variable as a flag has it."""
    word = {"yes": "true", "y": "true", "on": "true", "no": "false", "off": "false"}
    return word.get(text.lower(), text.lower() if values_of.boolean_of(text) is None else text)


def variables_of(row: Row) -> tuple[str, ...]:
    """Return the names of the variables of a flag, without their prefixes."""
    long = row[0].split()[0]
    return VARIABLES.get(long, (long[2:].upper().replace("-", "_"),))


def commas(texts: list[str]) -> list[str]:
    r"""Split values at commas, but for `\,`."""
    found = []
    for text in texts:
        parts = text.replace("\\,", "\0").split(",")
        found += [part.replace("\0", ",") for part in parts if part]
    return found
