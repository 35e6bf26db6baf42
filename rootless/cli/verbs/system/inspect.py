"""`rless inspect`: all about containers, images, networks and volumes, as JSON or by a template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMAT = (
    "--format -f", "FORMAT", "value", "format", "text",
    "json, or a template such as '{{.State.Status}}'",
)  # fmt: skip
SIZE = ("--size -s", "", "flag", "size", "boolean", "Count the bytes of a container's files")

VERB = Verb(
    "inspect",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    (
        (
            "Options",
            (
                FORMAT,
                SIZE,
                (
                    "--type",
                    "TYPE",
                    "value",
                    "type",
                    "system.inspect.kind",
                    "container, image, volume or network",
                ),
            ),
        ),
    ),
    least=1,
)


def kind(value: str) -> str:
    """Return the kind of an object."""
    return choice(value, "container", "image", "volume", "network")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what the names stand for: containers first, then images, volumes, networks."""
    asked = values.get("type")
    kinds = (asked,) if asked else ("container", "image", "volume", "network")
    size = bool(values.get("size"))
    return show(args, lambda name: look_up(name, kinds, size), values.get("format"))


def show(names: Sequence[str], read: Callable[[str], dict[str, Any]], template: str | None) -> int:
    """Print what `read` finds by these names; then complain of what it does not.

    Returns:
        0, or 1 if something was not found.
    """
    from rootless.cli.template import Renderer, compile_template
    from rootless.cli.template_functions import to_json

    nodes = None if template in (None, "", "json") else compile_template(template or "")
    found = []
    missing: list[RlessError] = []
    for name in names:
        try:
            found.append(read(name))
        except RlessError as error:
            missing.append(error)
    if nodes is not None:
        for item in found:
            streams.write(Renderer(nodes).render(_as_struct(item)) + "\n")
    elif template == "json":
        streams.write(to_json(found) + "\n")
    else:
        streams.write(to_json(found, indent=4) + "\n")
    for reason in missing:
        streams.report(reason)
    return 1 if missing else 0


# Fields of Docker's structs that its JSON leaves out where they are nil: `{{if .State.Health}}`.
_NIL = {"State": ("Health",), "Config": ("Healthcheck",), "HostConfig": ("Mounts",)}


def _as_struct(item: dict[str, Any]) -> dict[str, Any]:
    """Return what a template sees of an object: also nil fields, and `ID`, which is Id in JSON."""
    from rootless.cli.template_functions import Shown

    found = Shown({"ID": item.get("Id"), "SizeRw": None, "SizeRootFs": None, **item})
    found.document = item
    for name, fields in _NIL.items():
        part = item.get(name)
        if isinstance(part, dict):
            found[name] = Shown({**part, **{f: None for f in fields if f not in part}})
            found[name].document = part
    return found


def look_up(name: str, kinds: Sequence[str], size: bool) -> dict[str, Any]:
    """Return the first object of that name.

    Raises:
        RlessError: there is none of these kinds.
    """
    for each in kinds:
        try:
            return _READERS[each](name, size)
        except RlessError as error:
            # An ambiguous id is an error; a word that cannot be a name is simply not found.
            if not error.message.startswith("no such") and (each == "container" or len(kinds) == 1):
                raise
    what = kinds[0] if len(kinds) == 1 else "object"
    raise RlessError(f"no such {what}: {name}", exit_code=1)


def _container(name: str, size: bool) -> dict[str, Any]:
    from rootless.engine.query.inspect import inspect_container

    return inspect_container(name, size)


def _image(name: str, size: bool) -> dict[str, Any]:
    from rootless.engine.images import images

    return images.inspect_image(name)


def _volume(name: str, size: bool) -> dict[str, Any]:
    from rootless.engine.state.volumes import inspect_volume

    return inspect_volume(name)


def _network(name: str, size: bool) -> dict[str, Any]:
    from rootless.engine.query.inspect import inspect_network

    return inspect_network(name)


_READERS: dict[str, Callable[[str, bool], dict[str, Any]]] = {
    "container": _container,
    "image": _image,
    "volume": _volume,
    "network": _network,
}
