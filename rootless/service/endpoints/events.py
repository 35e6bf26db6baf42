"""What happens, as it happens."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from rootless.engine.query.filters import chooses_event
from rootless.engine.state import events as engine
from rootless.service import changes, inputs
from rootless.service.http import HttpError, Request

_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "label!", "network", "node",
    "plugin", "scope", "secret", "service", "type", "volume",
)  # fmt: skip
_NOT_OURS = ("config", "daemon", "node", "plugin", "secret", "service")
_TYPES = ("container", "image", "network", "volume")
_LOOK = 1.0  # seconds after which the file of events is looked at in any case
_SECOND = 10**9


async def events(request: Request) -> None:
    """Send events, each as a line; the head goes at once."""
    given = inputs.filters(request, _FILTERS)
    since, until = inputs.moment(request, "since"), inputs.moment(request, "until")
    if since is not None and until is not None and since > until:
        raise HttpError(400, "`since` time cannot be after `until` time")
    never = any(name in given for name in _NOT_OURS)
    if given.pop("scope", ["local"]) != ["local"]:
        never = True
    if "type" in given:
        given["type"] = [kind for kind in given["type"] if kind in _TYPES]
        never = never or not given["type"]
    chosen = chooses_event({key: texts for key, texts in given.items() if key not in _NOT_OURS})
    connection = request.connection
    with changes.of(os.path.dirname(engine.path())) as change:
        follower = engine.follow(since, until)
        event = next(follower, None)  # from here on nothing is missed
        await connection.begin("application/json")
        while True:
            if event is None:
                await change.wait(_LOOK if until is None else _left(until))
                change.clear()
            elif chosen(event) and not never:
                await connection.piece(json.dumps(shape(event)).encode() + b"\n")
            try:
                event = next(follower)
            except StopIteration:
                break
    await connection.finish()


def _left(until: int) -> float:
    """Return the seconds until it is over, or looked at again."""
    return max(0.0, min(_LOOK, (until - time.time_ns()) / _SECOND + 0.001))


def shape(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of the engine as Docker shows it, in the old form and in the new one."""
    attributes, kind, moment = event["attributes"], event["type"], int(event["time"])
    found: dict[str, Any] = {
        "Type": kind,
        "Action": event["action"],
        "Actor": {"ID": event["id"], "Attributes": attributes},
        "scope": "local",
        "time": moment // _SECOND,
        "timeNano": moment,
    }
    if kind in ("container", "image"):
        found |= {"status": event["action"], "id": event["id"]}
    if kind == "container":
        found["from"] = attributes.get("image", "")
    return found
