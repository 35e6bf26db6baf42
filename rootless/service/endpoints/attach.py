"""The streams and the log of a container."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rootless.engine.attach.detach_keys import Keys
from rootless.engine.query import logs as engine
from rootless.engine.state import events
from rootless.engine.state.container import find
from rootless.errors import CONFLICT, RlessError
from rootless.service import changes, inputs, sessions
from rootless.service.connection import MULTIPLEXED, RAW
from rootless.service.endpoints.containers import reference
from rootless.service.http import HttpError, Request
from rootless.service.streams import Pump, frame

if TYPE_CHECKING:
    from rootless.engine.state.container import Container
    from rootless.service.connection import Connection

_NAMES = {1: "stdout", 2: "stderr"}


def stream_type(request: Request, tty: bool) -> str:
    """Return the type of a stream: that of frames since version 1.42."""
    return MULTIPLEXED if not tty and request.version >= (1, 42) else RAW


async def attach(request: Request) -> None:
    """Connect a client to the streams of a container, which may still have to be started."""
    container = find(reference(request))
    name, tty = container.facts["name"], container.facts["tty"]
    status = container.status()[0]
    if status in ("paused", "restarting"):
        raise RlessError(f"container {name} is {status}", exit_code=1, kind=CONFLICT)
    wanted = [number for number, stream in _NAMES.items() if request.flag(stream)]
    streams = [_NAMES[number] for number in wanted]
    if request.flag("stdin") and container.facts["stdin_open"]:
        streams.insert(0, "stdin")
    Keys(request.text("detachKeys") or None)  # refused now: later there is no answer any more
    follows = request.flag("stream")
    attaching = asyncio.ensure_future(sessions.attach(container, streams)) if follows else None
    await asyncio.sleep(0)  # it is registered now: a start that comes next finds it
    connection = request.connection
    ahead = await connection.take_over(request, stream_type(request, tty))
    try:
        if request.flag("logs"):
            await _log(connection, container, tty, set(wanted), engine.LogOptions())
        if attaching is not None:
            found = await attaching
            await _copy(connection, container, found, ahead, wanted, request.text("detachKeys"))
    except RlessError:
        return  # the container does not run: the one who has started it is told why
    finally:
        if attaching is not None:
            attaching.cancel()
            with contextlib.suppress(asyncio.CancelledError, RlessError):
                (await attaching).close()


async def _copy(
    connection: Connection,
    container: Container,
    found: sessions.Streams,
    ahead: bytes,
    wanted: list[int],
    keys: str,
) -> None:
    pump = Pump(connection, container.facts["tty"], keys or None)
    stdin, found.stdin = found.stdin, -1  # the pump closes it
    outputs = {1: found.stdout, 2: found.stderr}
    try:
        await pump.run(ahead, stdin, outputs, wanted)
    finally:
        found.close()
    if pump.detached:
        events.of_container("detach", container)


async def logs(request: Request) -> None:
    """Send the log of a container, and what comes with `follow`."""
    container = find(reference(request))
    wanted = {number for number, stream in _NAMES.items() if request.flag(stream)}
    if not wanted:
        raise HttpError(400, "Bad parameters: you must choose at least one stream")
    options = engine.LogOptions()
    options.since = inputs.moment(request, "since")
    options.until = inputs.moment(request, "until")
    options.follow = request.flag("follow")
    options.timestamps = request.flag("timestamps")
    options.details = request.flag("details")
    tail = request.text("tail")
    if tail not in ("", "all"):
        options.tail = max(0, int(tail)) if tail.lstrip("-").isdigit() else None
    connection, tty = request.connection, container.facts["tty"]
    engine.read(container.id, options)  # what cannot be read is told by a status
    await connection.begin(stream_type(request, tty))
    await _log(connection, container, tty, wanted, options, framed=True)
    await connection.finish()


async def _log(
    connection: Connection,
    container: Container,
    tty: bool,
    wanted: set[int],
    options: engine.LogOptions,
    framed: bool = False,
) -> None:
    """Send a log.

    Args:
        framed: as pieces of an answer of HTTP.
    """
    send = connection.piece if framed else connection.write
    with changes.of(container.directory) as change:
        quiet = 0
        for batch in engine.read(container.id, options):
            data = b""
            for _, stream, text in batch or ():
                if stream in wanted:
                    data += bytes(text) if tty else frame(stream, bytes(text))
                    if len(data) > 1 << 16:
                        await send(data)
                        data = b""
            if data:
                await send(data)
            if batch is None and options.follow:
                quiet = 0 if await change.wait(engine.pause(quiet)) else quiet + 1
                change.clear()
            else:
                await asyncio.sleep(0)
