"""What a Dockerfile offers: its targets, and what one of them takes (`build --call`).

Both are objects in the form of BuildKit's JSON. A comment `# NAME what it is` right above a FROM
or an ARG describes it.

Source: BuildKit frontend/subrequests (targets, outline), dockerfile2llb/outline.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.dockerfile import instructions as form
from rootless.dockerfile.scope import StageScope, global_scope

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from rootless.dockerfile.reader import Node
    from rootless.dockerfile.stages import Dockerfile, Stage


def targets(dockerfile: Dockerfile) -> list[dict[str, Any]]:
    """Return the stages, in the order of the file; the last one is the default."""
    last = dockerfile.stages[-1].index
    found = []
    for stage in dockerfile.stages:
        described = {
            "name": stage.name,
            "default": stage.index == last,
            "description": _description(stage.base.node, stage.name),
            "base": stage.base.image,
            "platform": stage.base.platform,
        }
        kept: dict[str, Any] = {key: value for key, value in described.items() if value}
        found.append({**kept, "location": location(stage.base.node.line, stage.base.node.last)})
    return found


def outline(
    dockerfile: Dockerfile,
    target: Stage,
    build_args: Mapping[str, str],
    predefined: Mapping[str, str],
    contexts: Collection[str] = (),
) -> dict[str, Any]:
    """Return the build arguments, secrets, agents and caches of a target, with those it needs.

    Args:
        predefined: values of `scope.PLATFORM`. contexts: names of `--build-context`.

    Raises:
        DockerfileError: something is wrong in a stage that it needs.
    """
    values = global_scope(dockerfile.args, build_args, predefined)
    walk = _Walk(build_args)
    for arg in dockerfile.args:
        walk.take_arg(arg, values)
    scopes: dict[int, StageScope] = {}
    for stage in dockerfile.needed(target, values, contexts):
        base = dockerfile.base_of(stage, values, contexts)
        scope = scopes[stage.index] = StageScope(values, build_args, (), scopes.get(base.stage))
        for instruction in stage.instructions:
            if isinstance(instruction, form.Arg):
                scope.declare(instruction)
                walk.take_arg(instruction, scope.variables)
            elif isinstance(instruction, form.Env):
                scope.set(instruction.expanded(scope.variables))
            elif isinstance(instruction, form.Run):
                walk.take_mounts(instruction.expanded(scope.variables))
    found: dict[str, Any] = {"name": target.name} if target.name else {}
    description = _description(target.base.node, target.name)
    if description:
        found["description"] = description
    for kind, entries in walk.found.items():
        if entries:
            found[kind] = [*entries.values()]
    return found


def location(line: int, last: int) -> dict[str, Any]:
    """Return lines in the form of BuildKit's JSON."""
    return {"ranges": [{"start": {"line": line}, "end": {"line": max(line, last)}}]}


class _Walk:
    """Collects what the instructions take, each name once."""

    def __init__(self, build_args: Mapping[str, str]) -> None:
        self._build_args = build_args
        self.found: dict[str, dict[str, dict[str, Any]]] = {
            "args": {}, "secrets": {}, "ssh": {}, "cache": {}
        }  # fmt: skip

    def take_arg(self, arg: form.Arg, values: Mapping[str, str]) -> None:
        for name, _ in arg.args:
            entry = self.found["args"].setdefault(name, {"name": name})
            description = _description(arg.node, name)
            value = self._build_args.get(name, values.get(name, ""))
            if description:
                entry["description"] = description
            if value:
                entry["value"] = value
            entry.setdefault("location", location(arg.node.line, arg.node.last))

    def take_mounts(self, run: form.Run) -> None:
        where = location(run.node.line, run.node.last)
        for mount in run.mounts:
            if mount.type in ("secret", "ssh"):
                kind = "secrets" if mount.type == "secret" else "ssh"
                entry = self.found[kind].setdefault(mount.id, {"name": mount.id})
                if mount.required:
                    entry["required"] = True
                entry.setdefault("location", where)
            elif mount.type == "cache":
                name = mount.id or mount.target
                self.found["cache"].setdefault(name, {"ID": name, "location": where})


def _description(node: Node, name: str) -> str:
    """Return what a comment above an instruction says of a name."""
    for comment in node.comments:
        if name and comment.startswith(f"{name} "):
            return comment[len(name) :].strip()
    return ""
