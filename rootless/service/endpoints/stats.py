"""What a container uses, once or again each second."""

from __future__ import annotations

import asyncio
import json

from rootless.engine.state.container import find, load
from rootless.service.endpoints.containers import reference
from rootless.service.forms.stats import Sampler
from rootless.service.http import Request, Response

_INTERVAL = 1.0  # seconds: clients show zeros after two without a line


async def stats(request: Request) -> Response | None:
    """Send a sample each second, until the container is removed; or one with `stream=0`."""
    container = find(reference(request))
    sampler = Sampler(container)
    if not request.flag("stream", True):
        found = sampler.sample()
        if not request.flag("one-shot") and container.init() is not None:
            await asyncio.sleep(_INTERVAL)  # the CPU's share is known from two
            found = sampler.sample()
        return Response(found)
    connection = request.connection
    await connection.begin("application/json")
    while load(container.id) is not None:
        await connection.piece(json.dumps(sampler.sample()).encode() + b"\n")
        await asyncio.sleep(_INTERVAL)
    await connection.finish()
    return None
