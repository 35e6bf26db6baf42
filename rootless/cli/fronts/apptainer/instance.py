"""`instance start|run|list|stop|stats`: containers that run in the background.

An instance is a container of that name, which is removed when it ends. The list is read from what
lives, so that a name is free again whatever has ended the instance.
"""

from __future__ import annotations

import json

from rootless.cli import streams
from rootless.cli.fronts.apptainer import actions, parse, table
from rootless.cli.fronts.apptainer.enter import LABEL, find
from rootless.cli.fronts.apptainer.images import Image
from rootless.cli.fronts.apptainer.pull import inform
from rootless.cli.fronts.apptainer.table import FrontVerb
from rootless.cli.output import table as columns
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.state.container import Container


def _starting(name: str, about: str) -> FrontVerb:
    return FrontVerb(
        f"instance {name}",
        "[OPTIONS] IMAGE NAME [ARG...]",
        about,
        *table.ACTIONS,
        refused=table.ACTION_REFUSED,
        least=2,
        interspersed=False,
    )


VERBS = {
    "start": _starting("start", "Start an instance: the image's start script, and what enters it"),
    "run": _starting("run", "Start an instance that runs what the image is for"),
    "list": FrontVerb(
        "instance list",
        "[OPTIONS] [GLOB]",
        "List instances",
        (
            "Options",
            (
                ("--json -j", "", "flag", "json", "boolean", "Print JSON"),
                ("--logs -l", "", "flag", "logs", "boolean", "Show where their output is"),
            ),
        ),
        most=1,
    ),
    "stop": FrontVerb(
        "instance stop",
        "[OPTIONS] [GLOB]",
        "Stop instances: a signal, then they are killed",
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean", "Stop all of them"),
                ("--signal -s", "SIGNAL", "value", "signal", "signal", "The signal (SIGTERM)"),
                ("--timeout -t", "SECONDS", "value", "timeout", "seconds",
                 "How long to wait before they are killed (10)"),
                ("--force -F", "", "flag", "force", "boolean", "Kill them at once"),
            ),
        ),
        most=1,
    ),
    "stats": FrontVerb(
        "instance stats",
        "[OPTIONS] NAME",
        "Show what an instance uses",
        (
            "Options",
            (("--no-stream", "", "flag", "once", "boolean", "Show it once"),),
        ),
        least=1,
        most=1,
    ),
}  # fmt: skip


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Do what the second word says."""
    word = argv[0] if argv else ""
    if word not in VERBS:
        raise RlessError(f"instance {word} is not known", f"use {', '.join(VERBS)}")
    values, args = parse.parse(VERBS[word], argv[1:])
    if word in ("start", "run"):
        return _start(word, values, args, quiet)
    if word == "list":
        _list(values, args)
        return 0
    if word == "stop":
        return _stop(values, args, quiet)
    from rootless.cli.main import run_verb

    return run_verb("stats", [*(["--no-stream"] if values.get("once") else []), find(args[0]).id])


def _start(verb: str, values: dict[str, Any], args: list[str], quiet: bool) -> int:
    from rootless.cli.flags.values import name_ok
    from rootless.engine.start.run import run

    image, name, *command = args
    if not name_ok(f"{name}x"):
        raise RlessError(f"{name!r} is no name of an instance", "use letters, digits, _ . and -")
    if any(name == one for one, _ in instances()):
        raise RlessError(f"instance {name} already exists", "stop it, or choose another name")
    values = {"no_init": False, **values, "pid": True}
    asks = bool(values.get("disable_cache"))
    found = Image(image, keep_open=True, asks=asks, quiet=quiet)
    request = actions.request_of(verb, values, found, command, quiet=quiet, detach=True)
    request = request.replace(name=name, labels={LABEL: name}, init=True, interactive=False)
    code = run(request, argument=found.argument, says_id=False)
    if code == 0:
        inform("instance started successfully", quiet)
    return code


def instances() -> list[tuple[str, Container]]:
    """Return the instances that run, by name."""
    from rootless.engine.state import container as containers
    from rootless.engine.state import reconcile

    reconcile.reconcile()
    found = []
    for container_id in containers.all_ids():
        container = containers.load(container_id)
        if container is None:
            continue
        if LABEL in (container.facts.get("labels") or {}) and container.init() is not None:
            found.append((container.facts["name"], container))
    return sorted(found, key=lambda one: one[0])


def _matching(args: list[str]) -> list[tuple[str, Container]]:
    from fnmatch import fnmatchcase

    pattern = args[0] if args else "*"
    return [one for one in instances() if fnmatchcase(one[0], pattern)]


def _list(values: dict[str, Any], args: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for name, container in _matching(args):
        init = container.init()
        rows.append(
            {
                "instance": name,
                "pid": init[0] if init is not None else 0,
                "img": container.facts["image"] or container.facts["source"]["path"],
                "ip": "",
                "logErrPath": f"{container.directory}/log",
                "logOutPath": f"{container.directory}/log",
            }
        )
    if values.get("json"):
        streams.write(json.dumps({"instances": rows}, indent="\t") + "\n")
        return
    last = "logOutPath" if values.get("logs") else "img"
    heads = ["INSTANCE NAME", "PID", "IP", "LOGS" if values.get("logs") else "IMAGE"]
    streams.write(
        columns([[one["instance"], str(one["pid"]), one["ip"], one[last]] for one in rows], heads)
    )


def _stop(values: dict[str, Any], args: list[str], quiet: bool) -> int:
    if not args and not values.get("all"):
        raise RlessError("which instance is to be stopped?", "give a name, or --all")
    found = _matching(args)
    if not found:
        raise RlessError(f"no instance found with name {args[0] if args else '*'}")
    from rootless.engine.manage import stop

    ids = [container.id for _, container in found]
    for name, _ in found:
        inform(f"Stopping {name} instance", quiet)
    if values.get("force"):
        results = list(stop.kill(ids))
    else:
        results = list(stop.stop(ids, values.get("timeout", 10), values.get("signal")))
    for _, error in results:
        if error is not None:
            raise error
    return 0
