"""Build click's commands from the option tables: for help, completion and spelling errors.

Only this module and `shells` import click (20 ms); `parse` parses the command line. Still the
commands built here are complete: click's own parser reads the same lines to the same values, which
a property test proves. So help and completion say what the parser does.
"""

from __future__ import annotations

import os
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rootless.cli import parse, streams, verb_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.cli.parse import Refused, Row, Verb

    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


class _Value(_Type):
    """Convert a value by the function that the table names."""

    name = "value"

    def __init__(self, row: Row) -> None:
        self.row = row

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return parse.convert(self.row, self.row[0].split()[0], value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from rootless.cli.complete import values

        # A metavar that names all values tells more than the flag's name, which verbs share.
        if not _is_choice(self.row[1]) and (words := values(self.row[0].split()[0])):
            return [CompletionItem(word) for word in words if word.startswith(incomplete)]
        return _complete_words(self.row[1], incomplete)


class _Refusal(_Type):
    """Refuse a flag that Docker has."""

    name = "refused"

    def __init__(self, row: Refused) -> None:
        self.row = row

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        raise parse.refusal(self.row)


class _Option(click.Option):
    """Show an option as Docker's help does: short name first, hidden spellings left out."""

    def __init__(self, row: Row) -> None:
        names = row[0].split()
        self.row = row
        self.key = names[0]
        # Each value of an option is converted, as pflag does, not only the one that counts.
        kind: dict[str, Any] = (
            {"is_flag": True, "default": None}
            if row[2] in ("flag", "optional")
            else {"type": _Value(row), "multiple": True}
        )
        super().__init__(
            [*names, parameter(names[0])],
            metavar=row[1] or None,
            help=parse.help_text(row),
            **kind,
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if _is_of_the_command(ctx):
            return _complete_words("ARG", incomplete)
        return super().shell_complete(ctx, incomplete)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        names = self.row[0].split()
        short = next((f"{name}, " for name in names if len(name) == 2), "    ")
        value = f"[={self.row[1]}]" if self.row[2] == "optional" else f" {self.row[1]}".rstrip()
        return f"{short}{names[0]}{value}", parse.help_text(self.row)


class _Refused(click.Option):
    """A refused flag, known to click but not shown."""

    def __init__(self, row: Refused) -> None:
        names = row[0].split()
        kind: dict[str, Any] = {"type": _Refusal(row)} if row[1] else {"is_flag": True}
        super().__init__([*names, parameter(names[0])], hidden=True, **kind)
        self.row = row

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        if value is True:
            raise parse.refusal(self.row)
        return super().process_value(ctx, value)


class _Arguments(click.Argument):
    """What follows a verb: names of objects, or files."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(["arguments"], nargs=-1, type=click.UNPROCESSED)
        # "[OPTIONS] IMAGE [COMMAND] [ARG...]" -> ["IMAGE", "COMMAND", "ARG..."]
        words = [word.strip("[]") for word in verb.usage.split()]
        self.words = [word for word in words if word != "OPTIONS"]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        given = len(ctx.params.get(self.name or "") or ())
        if not self.words:
            return []
        last = self.words[-1]
        word = self.words[min(given, len(self.words) - 1)]
        if given >= len(self.words) and "..." not in last:
            return []
        return _complete_words(word, incomplete)


def _is_choice(metavar: str) -> bool:
    """Tell whether a metavar names all values: bash|zsh|fish."""
    return "|" in metavar and metavar == metavar.lower()


def _complete_words(what: str, incomplete: str) -> list[CompletionItem]:
    """Return what may stand where help says `what`: CONTAINER, IMAGE, FILE, bash|zsh|fish."""
    if _is_choice(what):
        return [CompletionItem(word) for word in what.split("|") if word.startswith(incomplete)]
    kinds = [
        kind
        for kind in ("container", "image", "network", "volume")
        if kind.upper() in what or (what.startswith("NAME|ID") and "|" in what)
    ]
    if "REPOSITORY" in what:
        kinds.append("image")
    if kinds:
        from rootless.cli.complete import names

        found = dict.fromkeys(name for kind in kinds for name in names(kind))
        items = [CompletionItem(name) for name in found if name.startswith(incomplete)]
        # cp: a path of the host may stand there as well
        return items or ([CompletionItem(incomplete, type="file")] if "PATH" in what else [])
    if any(word in what for word in ("DIR", "CONTEXT")):
        return [CompletionItem(incomplete, type="dir")]
    if any(word in what for word in ("FILE", "PATH", "ARG", "COMMAND", "SOURCE", "ARCHIVE")):
        return [CompletionItem(incomplete, type="file")]
    return []


class _Command(click.Command):
    """A verb with its options in groups."""

    def __init__(self, verb: Verb, summary: str) -> None:
        self.verb = verb
        options: list[click.Parameter] = [_Option(row) for _, rows in verb.groups for row in rows]
        options += [_Refused(row) for row in verb.refused]
        options.append(_Arguments(verb))
        short = "-h" if "-h" not in {n for r in _rows(verb) for n in r[0].split()} else "--help"
        super().__init__(
            verb.name,
            params=options,
            help=f"{summary}.",
            context_settings={
                "allow_interspersed_args": verb.interspersed,
                "help_option_names": list(dict.fromkeys((short, "--help"))),
                "max_content_width": 100,
            },
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if _is_of_the_command(ctx):
            return _complete_words("ARG", incomplete)
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return self.verb.usage.split()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {p.key: p for p in self.params if isinstance(p, _Option)}
        for heading, rows in self.verb.groups:
            with formatter.section(heading):
                formatter.write_dl(
                    [shown[row[0].split()[0]].get_help_record(ctx) for row in rows], col_max=34
                )
        with formatter.section("Help"):
            names = ", ".join(self.get_help_option_names(ctx))
            formatter.write_dl([(names if names[1] == "h" else f"    {names}", parse.HELP[5])])
        if self.verb.refused:
            names = " ".join(row[0].split()[0] for row in self.verb.refused)
            with formatter.section("Known and refused, with the reason"):
                for line in wrap(names, formatter.width - 2, break_on_hyphens=False):
                    formatter.write(f"  {line}\n")
        if self.verb.examples:
            with formatter.section("Examples"):
                for what, line in self.verb.examples:
                    formatter.write(f"  # {what}\n  {line}\n")


def _is_of_the_command(ctx: click.Context) -> bool:
    """Tell whether what follows belongs to the command that a container is to run."""
    command = ctx.command
    after_image = isinstance(command, _Command) and not command.verb.interspersed
    return after_image and bool(ctx.params.get("arguments"))


def _rows(verb: Verb) -> list[Row]:
    return [row for _, rows in verb.groups for row in rows]


def parameter(name: str) -> str:
    """Return the name of click's parameter for a long flag; not one that click uses itself."""
    return "option_" + name.lstrip("-").replace("-", "_")


def command(verb: str) -> click.Command:
    """Return click's command for a verb."""
    summary = next(verbs[verb][1] for verbs in verb_table.VERBS.values() if verb in verbs)
    return _Command(verb_table.load(verb).VERB, summary)


def help_of(verb: str) -> str:
    """Return the help text of a verb."""
    built = command(verb)
    with click.Context(built, info_name=f"rless {verb}", max_content_width=100) as context:
        return built.get_help(context) + "\n"


def read(verb: Verb, argv: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
    """Parse `argv` by click itself.

    Returns:
        The values by the canonical name of their flag, in order, and the arguments.

    Raises:
        click.UsageError, RlessError: the line is wrong.
    """
    built = _Command(verb, "")
    context = built.make_context(f"rless {verb.name}", list(argv))
    found = {}
    for option in built.params:
        if isinstance(option, _Option):
            value = context.params[option.name or ""]
            if value is not None and value != ():
                found[option.key] = list(value) if option.multiple else [value]
    return found, list(context.params["arguments"])


class _Verbs(click.Group):
    """Verbs by their names, each built on first use.

    Args:
        verbs: name -> (the verb it is, what it does); a verb that is a group: its own verbs.
    """

    def __init__(self, name: str, verbs: dict[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(name, **more)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        verb, _ = self.verbs[cmd_name]
        if not verb:
            return _Verbs(cmd_name, verbs_of(cmd_name))
        return command(verb)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # By the table: click would load the module of every verb for its summary.
        items = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in self.verbs.items()
            if name.startswith(incomplete)
        ]
        if incomplete[:1] == "-":
            items += click.Command.shell_complete(self, ctx, incomplete)
        return items


def verbs_of(group: str) -> dict[str, tuple[str, str]]:
    """Return the verbs of `rless GROUP`: name -> (the verb it is, what it does)."""
    summaries = {verb: row[1] for verbs in verb_table.VERBS.values() for verb, row in verbs.items()}
    return {name: (verb, summaries[verb]) for name, verb in verb_table.ALIASES[group].items()}


def _all() -> dict[str, tuple[str, str]]:
    """Return the first words that there are: verbs of one word, and groups of verbs."""
    single = {
        verb: (verb, summary)
        for verbs in verb_table.VERBS.values()
        for verb, (_, summary) in verbs.items()
        if " " not in verb
    }
    return single | {group: ("", f"Verbs about a {group}") for group in verb_table.ALIASES}


def _app() -> click.Group:
    options = [click.Option(["--debug"], is_flag=True), click.Option(["--storage"])]
    options.append(click.Option(["--cgroup-manager"]))
    return _Verbs("rless", _all(), params=[*options])


def completion_script(shell: str) -> str:
    """Return the script that turns completion on in bash, zsh or fish."""
    from rootless.cli.shells import SHELLS

    return SHELLS[shell](_app(), {}, "rless", _VARIABLE).source() + "\n"


def complete() -> int:
    """Answer the shell's request for completion, which it makes by $_RLESS_COMPLETE."""
    from rootless.cli.shells import SHELLS

    shell, _, wanted = os.environ[_VARIABLE].partition("_")
    if shell not in SHELLS:
        return 1
    made = SHELLS[shell](_app(), {}, "rless", _VARIABLE)
    streams.write((made.source() if wanted == "source" else made.complete()) + "\n")
    return 0


_VARIABLE = "_RLESS_COMPLETE"
