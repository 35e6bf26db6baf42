"""The command `rless`: find the verb, run it, print the one error line, return the exit code.

Nothing is imported before it is needed: `--version` and `--help` load this module, `errors` and
`streams`; a verb loads its own module; click is loaded for the help of verbs, for completion and
for errors in the spelling of flags.
"""

from __future__ import annotations

import os
import sys

from rootless import launch
from rootless.cli import streams
from rootless.cli.verb_table import ALIASES, find, group_help, help_text, load
from rootless.errors import EXIT_TOOL, RlessError, spoken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WITH_VARIABLES = ("run", "create", "exec")  # -e NAME=VALUE may be a secret


def run_verb(verb: str, args: list[str]) -> int:
    """Parse `args` by the table of `verb` and run it."""
    if verb in _WITH_VARIABLES:
        from rootless.linux.process import hide_values

        hide_values(["rless", verb, *args])
    from rootless.cli.parse import HelpWanted, parse

    module = load(verb)
    try:
        values, rest = parse(module.VERB, args)
    except HelpWanted:
        from rootless.cli.click_app import help_of

        streams.write(spoken(help_of(verb)))
        return 0
    try:
        code: int = module.main(values, rest)
    except RlessError as error:
        if error.exit_code == EXIT_TOOL:
            error.exit_code = module.VERB.failure
        raise
    return code


def _dispatch(args: list[str]) -> int:
    """Take the flags that stand before the verb, then run the verb."""
    while args and args[0].startswith("-"):
        flag, equals, value = args.pop(0).partition("=")
        if flag in ("--help", "-h") and not equals:
            streams.write(help_text())
            return 0
        if flag in ("--version", "-v") and not equals:
            from rootless import __version__

            streams.write(f"rless {__version__}\n")
            return 0
        if flag == "--debug" and not equals:
            os.environ["RLESS_DEBUG"] = "1"
            from rootless import log

            log.enabled = True
        elif flag in ("--storage", "--cgroup-manager"):
            if not equals:
                if not args:
                    raise RlessError(f"flag needs a value: {flag}", "see 'rless --help'")
                value = args.pop(0)
            if not value:
                raise RlessError(f"{flag}: the value is empty", "see 'rless --help'")
            if flag == "--storage":
                os.environ["RLESS_STORAGE"] = os.path.abspath(value)
            else:
                os.environ["RLESS_CONTAINERS_CGROUP_MANAGER"] = (
                    value  # as Podman's; `run` judges it
                )
        else:
            raise RlessError(f"unknown flag: {flag}", "see 'rless --help'")
    if not args:
        streams.write(help_text())
        return 0
    if args[0] in ALIASES and args[1:] in ([], ["--help"], ["-h"]):
        streams.write(group_help(args[0]))
        return 0
    return run_verb(*find(args))


def main(argv: list[str] | None = None, dispatch: Callable[[list[str]], int] = _dispatch) -> int:
    """Run `rless` with the arguments `argv` (without the program's name); return its exit code.

    Args:
        dispatch: runs the verb, of a front.
    """
    try:
        streams.guard()
        launch.let_interrupts_in()
        if "_RLESS_COMPLETE" in os.environ:
            from rootless.cli.click_app import complete

            return complete()
        if os.environ.get("RLESS_DEBUG") == "1":
            from rootless import log

            log.enabled = True
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        code = streams.report(error, debug=os.environ.get("RLESS_DEBUG") == "1")
        _drop_output()
        return code


def _drop_output() -> None:
    """Keep the interpreter from failing a second time when it flushes a stream at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
