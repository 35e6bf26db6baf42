"""What volumes there are, and all about one."""

from __future__ import annotations

from typing import Any

from rootless.engine.query import filters as engine_filters
from rootless.engine.state import volumes
from rootless.errors import INVALID, NOT_FOUND, RlessError
from rootless.service import children, inputs
from rootless.service.http import HttpError, Request, Response

_FILTERS = ("dangling", "driver", "label", "label!", "name")


async def list_all(request: Request) -> Response:
    """List volumes."""
    given = inputs.filters(request, _FILTERS)
    names = [engine_filters.pattern("name", text) for text in given.get("name", ())]
    dangling = {truth("dangling", text) for text in given.get("dangling", ())}
    used = volumes.users()
    found = [
        inspected(volume.name)
        for volume in volumes.all_volumes()
        if engine_filters.matches_labels(volume.labels, given)
        and (not names or any(test(volume.name) for test in names))
        and (not dangling or (volume.name not in used) in dangling)
        and ("driver" not in given or "local" in given["driver"])
    ]
    return Response({"Volumes": found, "Warnings": []})


def truth(name: str, text: str) -> bool:
    """Return the boolean of a filter.

    Raises:
        HttpError: it is none.
    """
    if text.lower() not in ("true", "1", "false", "0"):
        raise HttpError(400, f"filter {name}: {text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def inspected(name: str) -> dict[str, Any]:
    """Return all about a volume.

    Raises:
        RlessError: there is none.
    """
    return volumes.inspect_volume(name)


async def inspect(request: Request) -> Response:
    """Show all about a volume."""
    return Response(inspected(request.names["name"]))


async def create(request: Request) -> Response:
    """Make a volume; one that is there stays as it is."""
    body = request.json()
    driver = inputs.get(body, "Driver", "") or "local"
    if driver != "local":
        raise HttpError(400, f"volume driver {driver} is not supported: volumes are local")
    name = inputs.get(body, "Name", "")
    if name and not volumes.is_name(name):
        raise HttpError(400, f"{name!r} cannot be the name of a volume")
    options, labels = inputs.pairs(body, "DriverOpts"), inputs.pairs(body, "Labels")
    made = (await children.call(_create, name, labels, options)).value
    return Response(inspected(made), 201)


def _create(name: str, labels: dict[str, str], options: dict[str, str]) -> str:
    from rootless.cli.verbs.volume.create import check

    try:
        checked = check(options)
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise
    return volumes.create(name or None, labels, checked)


async def remove(request: Request) -> Response:
    """Remove a volume."""
    name = request.names["name"]
    try:
        await children.call(volumes.remove, name)
    except RlessError as error:
        if not (request.flag("force") and error.kind == NOT_FOUND):
            raise
    return Response(status=204)
