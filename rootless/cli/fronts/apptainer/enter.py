"""`exec`, `run`, `shell` and `test` in an instance: as `rless exec`, and nothing of a start."""

from __future__ import annotations

import os

from rootless.cli.fronts.apptainer import parse, table
from rootless.cli.fronts.apptainer.environment import Environment
from rootless.cli.fronts.apptainer.programs import SHELL, TEST, entry_shell, scripts_of
from rootless.engine.state import container as containers
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.state.container import Container

LABEL = "dev.rless.instance"


def find(name: str) -> Container:
    """Return an instance.

    Raises:
        RlessError: none of that name runs.
    """
    try:
        container = containers.find(name)
    except RlessError:
        pass
    else:
        facts = container.facts
        if facts["name"] == name and LABEL in (facts.get("labels") or {}) and container.init():
            return container
    raise RlessError(f"no instance found with name {name}", "see `apptainer instance list`")


def act(verb: str, argv: list[str], quiet: bool) -> int:
    """Run `exec`, `run`, `shell` or `test`, in an instance if the image is one."""
    values, args = parse.parse(table.ACTION_VERBS[verb], argv)
    if not args[0].startswith("instance://"):
        from rootless.cli.fronts.apptainer import actions

        return actions.main(verb, argv, quiet)
    return enter(args[0].partition("//")[2], verb, values, args[1:])


def enter(name: str, verb: str, values: dict[str, Any], command: list[str]) -> int:
    """Run a program in an instance; return its exit code."""
    from rootless.engine.exec.exec import ExecRequest, execute

    container = find(name)
    asked = container.facts["request"]
    home = asked.get("user_home") or "/"
    environment = Environment(values, {"COMMAND": verb}, home)
    scripts = scripts_of(environment.app)
    if verb == "shell":
        command = [values["shell"]] if "shell" in values else SHELL
    elif verb == "test":
        command = [*TEST, scripts["test"], *command]
    elif verb == "run":
        command = [scripts["runscript"], *command]
    before = list(asked.get("entrypoint") or (entry_shell() if environment.app else ()))
    request = ExecRequest(container.id, [*before, *command])
    over = dict(environment.over)
    if before:
        over = {"RLESS_FRONT": environment.for_shell(), "HOME": home}
    request.env = [f"{key}={value}" for key, value in over.items()]
    request.interactive = True
    request.tty = all(os.isatty(fd) for fd in (0, 1, 2))
    request.workdir = values.get("pwd") or _directory(container, home)
    return execute(request)


def _directory(container: Container, home: str) -> str:
    """Return the working directory, if it is the same inside, else the home."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return home
    for mount in container.facts["mounts"]:
        if mount["source"] == mount["target"] and f"{here}/".startswith(f"{mount['target']}/"):
            return here
    places = [mount["target"] for mount in container.facts["mounts"]]
    return home if home in places else "/"
