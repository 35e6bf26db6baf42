"""The life of a container: create, start, stop, wait, remove, and the changes between."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from rootless.engine.query.ps import LIVING
from rootless.engine.state.container import find
from rootless.errors import CONFLICT, INVALID, RlessError
from rootless.service import children, sessions
from rootless.service.endpoints.containers import reference
from rootless.service.forms import request as forms
from rootless.service.http import HttpError, Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

DONE = 204
socket_path = ""  # the service's own


async def create(request: Request) -> Response:
    """Make a container; the image has to be there."""
    name = request.text("name").removeprefix("/")
    body = request.json()
    result = await children.call(_create, body, name, request.text("platform"), socket_path)
    return Response({"Id": result.value, "Warnings": result.warnings}, 201)


def _create(body: dict[str, Any], name: str, platform: str, socket: str) -> str:
    from rootless.engine.images import images
    from rootless.engine.start.create import create as make

    try:
        wanted = forms.read(body, name, platform, socket)
    except HttpError as error:
        raise RlessError(error.message, kind=INVALID) from error
    images.find(wanted.image or "", wanted.platform)  # clients pull it when they are told so
    context = make(wanted)
    context.container.remove_run_record()
    return context.container.id


async def start(request: Request) -> Response:
    """Start a container; answer once its application runs."""
    if request.text("checkpoint"):
        raise HttpError(501, "rless makes no checkpoints")
    await sessions.start(find(reference(request)))
    return Response(status=DONE)


async def wait(request: Request) -> None:
    """Wait for the end of a container: the head of the answer goes at once, the code at the end."""
    condition = request.text("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise HttpError(400, f"invalid condition: {condition!r}")
    end = sessions.End(find(reference(request)), condition)
    connection = request.connection
    coding = asyncio.ensure_future(end.code())
    try:
        await connection.begin("application/json")
        found: dict[str, Any]
        try:
            found = {"StatusCode": await coding}
        except RlessError as error:
            found = {"StatusCode": 125, "Error": {"Message": str(error)}}
    finally:
        coding.cancel()
    await connection.piece(json.dumps(found).encode() + b"\n")
    await connection.finish()


def _first(outcomes: Iterable[tuple[str, RlessError | None]]) -> None:
    """Raise what came of the only container of several."""
    for _, error in outcomes:
        if error is not None:
            raise error


def _timeout(request: Request) -> int | None:
    seconds = request.number("t")
    return None if seconds is None else max(seconds, -1)


async def stop(request: Request) -> Response:
    """Stop a container."""
    name = find(reference(request)).id
    if find(name).status()[0] not in LIVING:
        return Response(status=304)
    await children.call(_stop, name, _timeout(request), request.text("signal") or None)
    return Response(status=DONE)


def _stop(name: str, seconds: int | None, number: str | None) -> None:
    from rootless.engine.manage import stop as engine

    _first(engine.stop([name], seconds, number))


async def restart(request: Request) -> Response:
    """Stop a container if it runs, and start it again."""
    name = find(reference(request)).id
    await children.call(_stop, name, _timeout(request), request.text("signal") or None)
    container = find(name)
    await sessions.start(container)
    _event("restart", name)
    return Response(status=DONE)


def _event(action: str, name: str) -> None:
    from rootless.engine.state import events

    events.of_container(action, find(name))


async def kill(request: Request) -> Response:
    """Send a signal to a container."""
    name = find(reference(request)).id
    await children.call(_kill, name, request.text("signal") or "SIGKILL")
    return Response(status=DONE)


def _kill(name: str, number: str) -> None:
    from rootless.engine.manage import stop as engine

    _first(engine.kill([name], number))


async def pause(request: Request) -> Response:
    """Halt a container."""
    await children.call(_pause, find(reference(request)).id)
    return Response(status=DONE)


def _pause(name: str) -> None:
    from rootless.engine.manage import pause as engine

    engine.pause(find(name))


async def unpause(request: Request) -> Response:
    """Let a container go on."""
    await children.call(_unpause, find(reference(request)).id)
    return Response(status=DONE)


def _unpause(name: str) -> None:
    from rootless.engine.manage import pause as engine

    engine.unpause(find(name))


async def rename(request: Request) -> Response:
    """Give a container another name."""
    from rootless.cli.flags.values import container_name

    try:
        name = container_name(request.text("name"))
    except ValueError as error:
        raise HttpError(400, f"name: {error}") from None
    if not name:
        raise HttpError(400, "no name is given")
    await children.call(_rename, find(reference(request)).id, name)
    return Response(status=DONE)


def _rename(name: str, new: str) -> None:
    from rootless.engine.manage import rename as engine

    engine.rename(name, new)


async def remove(request: Request) -> Response:
    """Remove a container."""
    if request.flag("link"):
        raise HttpError(400, "there are no links to remove")
    name = find(reference(request)).id
    await children.call(_remove, name, request.flag("force"), request.flag("v"))
    return Response(status=DONE)


def _remove(name: str, force: bool, volumes: bool) -> None:
    from rootless.engine.manage import remove as engine

    _first(engine.remove([name], force, volumes))


async def update(request: Request) -> Response:
    """Change limits and the restart policy of a container."""
    name = find(reference(request)).id
    body = request.json()
    result = await children.call(_update, name, body)
    return Response({"Warnings": result.warnings})


def _update(name: str, body: dict[str, Any]) -> None:
    from rootless.engine.manage import update as engine

    try:
        changes = forms.changes(body)
    except HttpError as error:
        raise RlessError(error.message, kind=INVALID) from error
    _first(engine.update([name], changes))


async def resize(request: Request) -> Response:
    """Set the size of a container's terminal."""
    rows, columns = size_of(request)
    sessions.resize(find(reference(request)), rows, columns)
    return Response()


def size_of(request: Request) -> tuple[int, int]:
    """Return the rows and columns of the query.

    Raises:
        HttpError: they are none.
    """
    rows, columns = request.number("h") or 0, request.number("w") or 0
    if not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise HttpError(400, "h and w are not the size of a terminal")
    return rows, columns


async def top(request: Request) -> Response:
    """Show the processes of a container."""
    given = request.text("ps_args")
    result = await children.call(_top, find(reference(request)).id, given.split(), kill=True)
    titles, rows = result.value
    return Response({"Titles": titles, "Processes": rows})


def _top(name: str, words: list[str]) -> tuple[list[str], list[list[str]]]:
    from rootless.engine.query import top as engine
    from rootless.engine.state import processes

    columns = engine.parse(words)
    container = find(name)
    if container.init() is None:
        raise RlessError(
            f"container {container.facts['name']} is not running", exit_code=1, kind=CONFLICT
        )
    return engine.table(processes.of(container), columns)
