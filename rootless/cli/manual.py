"""Write the manual pages from the option tables: rless(1), and one of each verb, as rless-run(1).

rless-apptainer(1) is the page of the front of that name.

An installation has them in share/man/man1 (setup.py), where man(1) finds them by the directory of
the command: `man rless run`. Source: man-pages(7), groff_man(7).
"""

from __future__ import annotations

import os
import sys

from rootless import __version__
from rootless.cli import parse, verb_table
from rootless.cli.fronts.apptainer import help as apptainer
from rootless.cli.fronts.apptainer import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.cli.parse import Verb

_ABOUT = """\
rless runs containers for ordinary users, with Docker's commands and flags. It needs no root, no
daemon and no setuid program of its own.
"""
_APPTAINER = """\
The command line of Apptainer, which makes the same containers as `rless run --hpc`. A flag is also
set by the variable APPTAINER_ or SINGULARITY_ with its long name in capitals. The exit code is that
of the program, 255 for each failure of the tool, and 1 for a wrong flag.
"""
_OPTIONS = (
    ("--debug", "Print the time line, and tracebacks of internal errors"),
    ("--storage DIR", "Keep images and containers there (RLESS_STORAGE)"),
    ("--cgroup-manager MANAGER", "systemd, cgroupfs or none (RLESS_CONTAINERS_CGROUP_MANAGER)"),
    ("-v, --version", "Print the version"),
    ("--help", "Print the verbs"),
)
_EXIT = (
    ("125", "rless itself failed"),
    ("126", "the command in the container cannot be executed"),
    ("127", "the command in the container was not found"),
    ("other", "the exit code of the command; 128 and the number of a signal that ended it"),
)
_FILES = (
    ("~/.config/rless/config.toml, /etc/rless/rless.toml", "defaults; see rless-config-show(1)"),
    ("~/.local/share/rless", "images, containers, volumes and networks"),
)


def pages() -> dict[str, str]:
    """Return the text of each page by its name, such as "rless-run.1"."""
    found = {"rless.1": "\n".join(_main_page()) + "\n"}
    for verbs in verb_table.VERBS.values():
        for name, (_, summary) in verbs.items():
            page = _verb_page(verb_table.load(name).VERB, name, summary)
            found[f"{_page_of(name)}.1"] = "\n".join(page) + "\n"
    found["rless-apptainer.1"] = "\n".join(_apptainer_page()) + "\n"
    return found


def _page_of(verb: str) -> str:
    return f"rless-{verb.replace(' ', '-')}"


def _text(text: str) -> str:
    """Return `text` as roff: what it would obey, or turn into typographic signs, is escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text[:1] == "." else text


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _head(page: str, summary: str) -> list[str]:
    title = f'.TH {_text(page.upper())} 1 "" "rless {__version__}" "User Commands"'
    return [title, ".SH NAME", f"{_text(page)} \\- {_text(summary)}"]


def _list(rows: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, meaning in rows:
        yield from (".TP", term, _text(meaning))


def _main_page() -> Iterator[str]:
    yield from _head("rless", "containers for ordinary users")
    yield from (".SH SYNOPSIS", f"{_bold('rless')} [OPTIONS] VERB ...")
    yield from (".SH DESCRIPTION", _text(_ABOUT.strip()), ".SH OPTIONS")
    yield from _list(tuple((_bold(name), what) for name, what in _OPTIONS))
    yield ".SH VERBS"
    for heading, verbs in verb_table.VERBS.items():
        yield f".SS {_text(heading)}"
        for name, (_, summary) in verbs.items():
            yield from (".TP", f"{_bold(name)}, see {_bold(_page_of(name))}(1)", _text(summary))
    for heading, rows in (("EXIT STATUS", _EXIT), ("FILES", _FILES)):
        yield f".SH {heading}"
        yield from _list(tuple((_text(name), what) for name, what in rows))


def _verb_page(verb: Verb, name: str, summary: str) -> Iterator[str]:
    yield from _head(_page_of(name), summary)
    yield from (".SH SYNOPSIS", f"{_bold(f'rless {name}')} {_text(verb.usage)}".rstrip())
    yield from (".SH DESCRIPTION", f"{_text(summary)}.")
    if aliases := verb_table.aliases_of(name):
        yield _text(f"Also {', '.join(aliases)}.")
    for heading, rows in verb.groups:
        yield f".SH {_text(heading.upper())}"
        yield from _list((_flag(*row[:3]), parse.help_text(row)) for row in rows)
    if verb.refused:
        yield ".SH KNOWN AND REFUSED"
        yield from _list(
            (_flag(names, metavar, ""), f"{why}; {use}" if use else why)
            for names, metavar, why, use in verb.refused
        )
    if verb.examples:
        yield ".SH EXAMPLES"
        for what, line in verb.examples:
            yield from (".PP", f"{_text(what)}:", ".PP", ".EX", f"    {_text(line)}", ".EE")
    yield from (".SH SEE ALSO", f"{_bold('rless')}(1)")


def _apptainer_page() -> Iterator[str]:
    """Yield the page of the command apptainer, which is rless under that name."""
    yield from _head("rless-apptainer", "rless under the names apptainer and singularity")
    yield from (".SH SYNOPSIS", f"{_bold('apptainer')} [GLOBAL OPTIONS] COMMAND [ARG...]")
    yield from (".SH DESCRIPTION", _text(_APPTAINER.strip()), ".SH GLOBAL OPTIONS")
    yield from _list((_flag(*row[:3]), parse.help_text(row)) for row in table.GLOBAL[1])
    yield ".SH OPTIONS OF EXEC, RUN, SHELL, TEST AND INSTANCE START"
    for heading, rows in table.ACTIONS:
        yield f".SS {_text(heading)}"
        yield from _list((_flag(*row[:3]), parse.help_text(row)) for row in rows)
    yield ".SH COMMANDS"
    for verb in apptainer.verbs():
        yield f".SS {_text(f'{verb.name} {verb.usage}')}"
        yield _text(f"{verb.about}.")
        if verb.groups != table.ACTIONS:
            yield from _list(
                (_flag(*row[:3]), parse.help_text(row)) for _, rows in verb.groups for row in rows
            )
    yield ".SH KNOWN AND REFUSED"
    refused = ((name, "", *why) for name, why in table.REFUSED_VERBS.items())
    yield from _list(
        (_flag(names, metavar, ""), f"{why}; {use}" if use else why)
        for names, metavar, why, use in (*table.ACTION_REFUSED, *refused)
    )
    yield from (".SH SEE ALSO", f"{_bold('rless')}(1), {_bold('rless-alias-install')}(1)")


def _flag(names: str, metavar: str, kind: str) -> str:
    spelled = ", ".join(map(_bold, sorted(names.split(), key=len)))
    if not metavar:
        return spelled
    return f"{spelled}[={_text(metavar)}]" if kind == "optional" else f"{spelled} {_text(metavar)}"


def main() -> None:
    """Write the pages to the directory that the first argument names."""
    for name, text in pages().items():
        with open(os.path.join(sys.argv[1], name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
