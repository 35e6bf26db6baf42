"""The command `apptainer`, and `singularity`, which is the same: find the verb and run it."""

from __future__ import annotations

import os
import sys

from rootless import launch, log
from rootless.cli import streams
from rootless.cli.fronts.apptainer import parse, table
from rootless.cli.fronts.voice import failure, version, version_line
from rootless.cli.parse import HelpWanted, did_you_mean
from rootless.errors import RlessError, escape, spoken
from rootless.linux.process import hide_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(argv: list[str], name: str) -> int:
    """Run a command line of Apptainer; return its exit code."""
    try:
        streams.guard()
        launch.let_interrupts_in()
        hide_values([name, *argv])  # --env NAME=VALUE may be a secret
        _take_cache()
        code = _dispatch(argv, name)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except parse.UsageError as error:
        of = f' for command "{error.verb}"' if error.verb else ""
        streams.write(f"Error{of}: {escape(spoken(str(error)))}\n", 2)
        return 1
    except (Exception, KeyboardInterrupt) as problem:
        said, found = failure(problem)
        reported = streams.report(said, debug=os.environ.get("RLESS_DEBUG") == "1")
        return reported if found is None else found


def _take_cache() -> None:
    """Have all that this command keeps where the user says, if that is said: a home has a quota."""
    place = parse.variable("CACHEDIR")
    if place and "RLESS_STORAGE" not in os.environ:
        os.environ["RLESS_STORAGE"] = f"{os.path.abspath(place)}/rless"


def _dispatch(argv: list[str], name: str) -> int:
    if argv[:1] == ["--version"]:
        streams.write(version_line(name))
        return 0
    try:
        options, words = parse.before_verb(argv)
    except HelpWanted:
        words = ["help"]
        options = {}
    quiet = _take_options(options)
    verb, rest = (words[0], words[1:]) if words else ("help", [])
    if verb == "version":
        streams.write(version(name) + "\n")
        return 0
    if verb == "help":
        from rootless.cli.fronts.apptainer import help as texts

        streams.write(texts.of_command(name, rest))
        return 0
    if verb in table.REFUSED_VERBS:
        why, use = table.REFUSED_VERBS[verb]
        raise RlessError(f"{name} {verb} is not supported: {why}", use or None)
    if verb not in table.MODULES:
        near = did_you_mean(verb, list(table.MODULES))
        error = RlessError(f"unknown command: {verb}{near}", f"see '{name} --help'")
        raise parse.UsageError(error, name)
    try:
        if table.MODULES[verb] == "actions":
            # By name, so that hot.bin has them.
            if any(word.startswith("instance://") for word in rest):
                from rootless.cli.fronts.apptainer import enter

                return enter.act(verb, rest, quiet)
            from rootless.cli.fronts.apptainer import actions

            return actions.main(verb, rest, quiet)
        path = f"rootless.cli.fronts.apptainer.{table.MODULES[verb]}"
        __import__(path)
        code: int = sys.modules[path].main(verb, rest, quiet)
    except HelpWanted:
        from rootless.cli.fronts.apptainer import help as texts

        streams.write(texts.of_command(name, [verb, *rest]))
        return 0
    return code


def _take_options(options: dict[str, Any]) -> bool:
    """Take the options before the verb; tell whether only warnings and errors are wanted."""
    if options.get("debug"):
        os.environ["RLESS_DEBUG"] = "1"
        log.enabled = True
    if options.get("silent"):
        log.collect()  # and nobody prints them
    return bool(options.get("quiet") or options.get("silent"))
