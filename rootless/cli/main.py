"""The command `rless`: find the verb, run it, print the one error line, pick the exit code.

Nothing is imported before it is needed: `--version` and `--help` load this module, `errors`
and `streams`; a verb loads its own module; click is loaded for help of verbs, for completion
and for errors in the spelling of flags.
"""

from __future__ import annotations

import os
import sys

from rootless.cli import streams
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# verb -> (module of rootless.cli, what it does), by the headings of the help text
VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Containers": {
        "run": ("run", "Create and run a new container from an image"),
        "ps": ("ps", "List containers"),
        "logs": ("logs", "Show what a container wrote"),
        "stop": ("stop", "Ask containers to end, then kill them"),
        "kill": ("kill", "Send a signal to containers"),
        "wait": ("wait", "Wait until containers end and print their exit codes"),
        "rm": ("rm", "Remove containers"),
    },
    "Images": {
        "pull": ("pull", "Fetch an image from a registry or an archive"),
        "images": ("images", "List images"),
        "rmi": ("rmi", "Remove images"),
    },
    "Host": {
        "doctor": ("doctor", "Check this host: what works, what does not, how to fix it"),
        "unshare": ("unshare", "Run a command in the user namespace of containers"),
        "version": ("version", "Show the version of rless, Python and the kernel"),
        "help": ("help", "Show the help of a verb"),
    },
}
ALIASES: dict[str, dict[str, str]] = {
    "container": {
        **{verb: verb for verb in ("run", "logs", "stop", "kill", "wait", "rm", "ps")},
        "ls": "ps",
        "list": "ps",
    },
    "image": {"pull": "pull", "ls": "images", "list": "images", "rm": "rmi"},
}
# verbs of Docker that are known to be missing
_LATER = (
    "attach build builder buildx commit compose cp create diff events exec export history import"
    " info inspect load login logout network pause plugin port push rename restart save search"
    " start stats swarm system tag top unpause update volume"
)


def help_text() -> str:
    """Return the help of `rless` itself."""
    lines = ["Usage: rless [--debug] [--storage DIR] VERB ...", "", "Run containers without root."]
    for heading, verbs in VERBS.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {verb:<10}{summary}" for verb, (_, summary) in verbs.items()]
    lines += [
        "",
        "Options:",
        "  --debug        Print the time line, and tracebacks of internal errors",
        "  --storage DIR  Keep images and containers there (RLESS_STORAGE)",
        "  -v, --version  Print the version",
        "  --help         Print this text",
        "",
        "'rless container' and 'rless image' take the same verbs as Docker's.",
        "'rless VERB --help' tells more about a verb.",
        "",
    ]
    return "\n".join(lines)


def find(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb that `words` begin with, and the rest; aliases are resolved.

    Raises:
        RlessError: there is no such verb.
    """
    word, rest = words[0], words[1:]
    if word in ALIASES:
        names = ", ".join(ALIASES[word])
        if not rest or rest[0] not in ALIASES[word]:
            what = f"{word} {rest[0]}" if rest else word
            raise RlessError(f"no such verb: {what}", f"'rless {word}' takes {names}")
        return ALIASES[word][rest[0]], rest[1:]
    if any(word in verbs for verbs in VERBS.values()):
        return word, rest
    if word in _LATER.split():
        raise RlessError(f"the verb {word} is not supported: not built yet", "see 'rless --help'")
    raise RlessError(f"no such verb: {word}", "see 'rless --help'")


def load(verb: str) -> ModuleType:
    """Import and return the module of a verb."""
    module = next(verbs[verb][0] for verbs in VERBS.values() if verb in verbs)
    name = f"rootless.cli.{module}"
    __import__(name)
    return sys.modules[name]


def run_verb(verb: str, args: list[str]) -> int:
    """Parse `args` by the table of `verb` and run it."""
    from rootless.cli.parse import HelpWanted, parse

    module = load(verb)
    try:
        values, rest = parse(module.VERB, args)
    except HelpWanted:
        from rootless.cli.click_app import help_of

        streams.write(help_of(verb))
        return 0
    code: int = module.main(values, rest)
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
        elif flag == "--storage":
            if not equals:
                if not args:
                    raise RlessError("flag needs a value: --storage", "see 'rless --help'")
                value = args.pop(0)
            if not value:
                raise RlessError("--storage: the directory is empty", "see 'rless --help'")
            os.environ["RLESS_STORAGE"] = os.path.abspath(value)
        else:
            raise RlessError(f"unknown flag: {flag}", "see 'rless --help'")
    if not args:
        streams.write(help_text())
        return 0
    if args[0] in ALIASES and args[1:] in ([], ["--help"]):
        streams.write(f"Usage: rless {args[0]} {'|'.join(ALIASES[args[0]])} ...\n")
        return 0
    return run_verb(*find(args))


def main(argv: list[str] | None = None) -> int:
    """Run `rless` with the arguments `argv` (without the program's name); return its exit code."""
    try:
        streams.guard()
        if "_RLESS_COMPLETE" in os.environ:
            from rootless.cli.click_app import complete

            return complete()
        if os.environ.get("RLESS_DEBUG") == "1":
            from rootless import log

            log.enabled = True
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
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
