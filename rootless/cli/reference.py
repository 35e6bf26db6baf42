"""Write docs/cli.md from the option tables: every flag, what it does, or why it is refused."""

from __future__ import annotations

from rootless.cli import streams, verb_table
from rootless.cli.options import GROUPS, REFUSED, RUN
from rootless.cli.parse import help_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cli.parse import Row, Verb

_HEAD = """\
# The command line

<!-- Written by `python -m rootless.cli.reference > docs/cli.md`; a test keeps it current. -->

`rless run` has every flag of `docker run` (27/28). Each flag either works, or is refused by name
with the reason and what to use instead. None is silently ignored: for a flag that is accepted
without effect, the text says why. `rless COMMAND --help` and the manual page `man rless COMMAND`
show the same tables.

Flags end at IMAGE, or at `--`. `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE` and
`-n=VALUE` are the same. Short switches combine (`-it`), and `--rm=false` turns a switch off.
`--debug`, `--storage DIR`, `--version` and `--help` come before the command.

A wrong line is one line on standard error and exit code 125. Completion:
`eval "$(_RLESS_COMPLETE=bash_source rless)"` (also `zsh_source`, `fish_source`).
"""

_MEANINGS = """\
## Where rless differs

- `--userns auto` maps the user that the application runs as to you where there is a bind mount, so
  what it writes to one is yours. `host` means `host-root`: 0 is you, as in rootless Docker.
- `--ipc shareable` and `--ipc private` are the same: any container of yours may be joined.
- The default network is one of the container's own, by pasta: outgoing connections and
  published ports. Containers find each other in `--network bridge` and in networks that
  `network create` made.
- `-v` takes Podman's `O`, `exec`, `suid`, `bind`/`rbind` besides Docker's options. `z` and `Z` are
  accepted where SELinux confines nobody, and refused where it confines you: rless sets no labels.
- `-e KEY` with no such variable here removes the KEY of the image, as in Docker.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _names(names: str, metavar: str, optional: bool = False) -> str:
    words = sorted(names.split(), key=len)
    spelled = ", ".join(f"`{word}`" for word in words)
    value = f"[={metavar}]" if optional else f" {metavar}" if metavar else ""
    return _cell(spelled[:-1] + value + "`")


def _row(row: Row) -> str:
    return f"| {_names(row[0], row[1], row[2] == 'optional')} | {_cell(help_text(row))} |"


def _examples(verb: Verb) -> list[str]:
    """Return the examples as a block that the tests of the documents read."""
    lines = [f"# {what}\n$ {line}" for what, line in verb.examples]
    return ["```console", *lines, "```", ""] if lines else []


def text() -> str:
    """Return the whole page."""
    lines = [_HEAD, "## rless run", "", *_examples(RUN)]
    for heading, rows in GROUPS:
        lines += [f"### {heading}", "", "| flag | what it does |", "|---|---|"]
        lines += map(_row, rows)
        lines.append("")
    lines += ["### Refused", "", "| flag | why | what to use |", "|---|---|---|"]
    for names, metavar, why, use in REFUSED:
        lines.append(f"| {_names(names, metavar)} | {_cell(why)} | {_cell(use)} |")
    lines += ["", _MEANINGS, "## The other verbs", ""]
    for verbs in verb_table.VERBS.values():
        for verb, (_, summary) in verbs.items():
            if verb != "run":
                lines += _verb(verb, summary)
    return "\n".join(lines).rstrip() + "\n"


def _verb(name: str, summary: str) -> list[str]:
    verb = verb_table.load(name).VERB
    aliases = [f"`{alias}`" for alias in verb_table.aliases_of(name)]
    lines = [f"### rless {name} {verb.usage}".rstrip(), "", f"{summary}."]
    if aliases:
        lines[-1] += f" Also {', '.join(aliases)}."
    rows = [row for _, group in verb.groups for row in group]
    if rows or verb.refused:
        lines += ["", "| flag | what it does |", "|---|---|"]
    lines += map(_row, rows)
    for names, metavar, why, use in verb.refused:
        reason = f"refused: {why}" + (f"; {use}" if use else "")
        lines.append(f"| {_names(names, metavar)} | {_cell(reason)} |")
    return [*lines, ""]


def main() -> None:
    """Print the page."""
    streams.write(text())


if __name__ == "__main__":
    main()
