"""`rless generate systemd`: write a systemd user unit for a container."""

from __future__ import annotations

import os
import shutil
import sys

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError
from rootless.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "generate systemd",
    "[OPTIONS] CONTAINER",
    (
        (
            "Options",
            (
                ("--new", "", "flag", "new", "boolean",
                 "Make a new container at each start and remove it at each stop"),
                ("--files -f", "", "flag", "files", "boolean",
                 "Write the unit to a file in this directory and print its path"),
                ("--name -n", "", "flag", "by_name", "boolean",
                 "Name the unit after the container's name, not its id"),
                ("--restart-policy", "POLICY", "value", "policy", "system.generate_systemd.policy",
                 "systemd's Restart=: no, on-failure (default), always, ..."),
                ("--stop-timeout --time -t", "SECONDS", "value", "timeout", "seconds",
                 ("How long a stop waits before it kills the container (default: that "
                  "of the container)")),
                ("--wants", "UNIT", "list", "wants", "system.generate_systemd.other", "Wants=UNIT"),
                ("--after", "UNIT", "list", "after", "system.generate_systemd.other", "After=UNIT"),
                ("--requires", "UNIT", "list", "requires", "system.generate_systemd.other",
                 "Requires=UNIT"),
                ("--restart", "", "flag", "boot", "boolean",
                 "Without a container: write the unit that restarts containers after a boot"),
            ),
        ),
    ),
    most=1,
)  # fmt: skip


def policy(value: str) -> str:
    """Return a word for Restart= of systemd.service(5)."""
    from rootless.engine.manage.systemd_units import POLICIES

    return choice(value, *POLICIES)


def other(value: str) -> str:
    """Return the name of a unit."""
    if not value or not value.isprintable() or " " in value or "/" in value:
        raise ValueError("is not the name of a unit")
    return value


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the unit, or write it."""
    from rootless.engine.manage import systemd_units

    if values.get("boot"):
        if args:
            raise RlessError("--restart takes no container", VERB.see_help(), 1)
        return _give(systemd_units.RESTART_UNIT, systemd_units.restart_unit(program()), values)
    if not args:
        raise RlessError("'rless generate systemd' needs a container", VERB.see_help())
    options = systemd_units.UnitOptions(program())
    for name in ("new", "by_name", "policy", "timeout", "wants", "after", "requires"):
        if name in values:
            setattr(options, name, values[name])
    arguments = run_arguments(args[0]) if options.new else []
    return _give(*systemd_units.unit(args[0], options, arguments), values)


# What a unit decides itself, or what would be in the way of a second start.
_LEFT_OUT = (
    "--attach --cidfile --debug --detach --detach-keys --explain --interactive --name --quiet"
    " --restart --rm --sig-proxy"
).split()


def run_arguments(reference: str) -> list[str]:
    """Return the arguments of a `rless run` that makes a container as this one was made.

    Raises:
        RlessError: how that was is not known.
    """
    from rootless.cli.options import RUN
    from rootless.cli.parse import tokenize
    from rootless.cli.verb_table import find
    from rootless.engine.state.container import find as find_container

    facts = find_container(reference).facts
    words = list((facts.get("request") or {}).get("argv") or ())
    while words[:1] and words[0].startswith("-"):  # global flags; --storage is the unit's
        del words[: 2 if words[0] == "--storage" else 1]
    if not words:
        raise RlessError(
            f"it is not recorded how container {facts['name']} was made", "leave --new out", 1
        )
    verb, rest = find(words)
    found, args = tokenize(RUN, rest)
    kept = []
    for row, _, text in found:
        name = row[0].split()[0]
        if name in _LEFT_OUT:
            continue
        kept.append(name if row[2] == "optional" and not text else f"{name}={text}")
    assert verb in ("run", "create")
    return ["run", "--detach", "--rm", f"--name={facts['name']}", *kept, "--", *args]


def _give(name: str, text: str, values: dict[str, Any]) -> int:
    if not values.get("files"):
        streams.write(text)
        return 0
    path = os.path.abspath(name)
    try:
        # For nobody else to read: its words may be secrets (-e TOKEN=x).
        files.write(path, text.encode())
    except OSError as error:
        raise RlessError(f"cannot write {path}: {error.strerror}", exit_code=1) from error
    streams.write(f"{path}\n")
    return 0


def program() -> str:
    """Return the absolute path of `rless`: what this was started as, else what the shell finds."""
    started = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "rless")
    found = started if os.access(started, os.X_OK) else shutil.which("rless")
    if found is None:
        raise RlessError(
            "there is no rless program that a unit could start",
            "install it: pip install, or scripts/quickstart",
            1,
        )
    return os.path.abspath(found)
