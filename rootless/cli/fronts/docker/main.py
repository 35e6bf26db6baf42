"""The commands `docker` and `podman`.

They differ from `rless` in the flags before the verb, in the words for version and info, and in
that a limit which nobody lets us set is no error: programs ask for limits that their users never
typed (docs/decisions/0028-fronts.md).
"""

from __future__ import annotations

import os

from rootless import config, log
from rootless.cli import main as rless
from rootless.cli import streams
from rootless.cli.verb_table import ALIASES, find, group_help
from rootless.errors import RlessError, spoken

_LEVELS = ("debug", "info", "warn", "error", "fatal")
_LIMITED = ("run", "create", "build")


def main(argv: list[str], name: str) -> int:
    """Run a command line of `docker` or `podman`; return its exit code."""
    return rless.main(argv, lambda words: _dispatch(words, name))


def _dispatch(argv: list[str], name: str) -> int:
    words = _before_verb(argv, name) if argv[:1] and argv[0][:1] == "-" else argv
    if words is None:
        return 0
    if not words:
        streams.write(_help(name))
        return 0
    if words[0] in ALIASES and words[1:] in ([], ["--help"], ["-h"]):
        streams.write(spoken(group_help(words[0])))
        return 0
    verb, rest = find(words)
    if verb in ("version", "info"):
        from rootless.cli.fronts.docker import words as told

        return told.main(verb, rest, name)
    if verb in _LIMITED:
        rest = [f"--limits={config.get('front', 'limits') or 'try'}", *rest]
    return rless.run_verb(verb, rest)


def _before_verb(argv: list[str], name: str) -> list[str] | None:
    """Take the flags that stand before the verb; return the words from it on, None: all is done."""
    from rootless.cli.fronts.docker.flags import DOCKER, PODMAN
    from rootless.cli.parse import HelpWanted, parse

    try:
        values, words = parse(PODMAN if name == "podman" else DOCKER, argv)
    except HelpWanted:
        streams.write(_help(name))
        return None
    if values.get("version"):
        from rootless.cli.fronts.voice import version_line

        streams.write(version_line(name))
        return None
    level = str(values.get("log_level") or "info").lower()
    if level not in _LEVELS:
        raise RlessError(f"--log-level {level} is not known", f"one of {', '.join(_LEVELS)}")
    if values.get("debug") or level == "debug":
        os.environ["RLESS_DEBUG"] = "1"
        log.enabled = True
    if level in ("error", "fatal"):
        log.collect()
    for key, variable in (
        ("config", "DOCKER_CONFIG"),
        ("storage", "RLESS_STORAGE"),
        ("cgroup_manager", "RLESS_CONTAINERS_CGROUP_MANAGER"),
    ):
        if key in values:
            os.environ[variable] = values[key]
    return words


def _help(name: str) -> str:
    from rootless.cli.fronts.docker.flags import DOCKER, PODMAN
    from rootless.cli.verb_table import verbs_text

    rows = (PODMAN if name == "podman" else DOCKER).groups[0][1]
    flags = [
        f"  {', '.join(row[0].split())} {row[1]}".rstrip() + f"\n        {row[5]}" for row in rows
    ]
    return "\n".join(
        [
            f"Usage: {name} [OPTIONS] VERB ...",
            "",
            f"rless under the name {name}: no daemon, no root. 'rless --help' is its own help.",
            verbs_text(),
            "Options:",
            *flags,
            "",
        ]
    )
