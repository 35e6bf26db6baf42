"""`rless events`: what happens to containers, images and volumes."""

from __future__ import annotations

import time
from typing import Any

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "events",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--filter -f", "KEY=VALUE", "list", "filters", "text",
                 "Show only some: by container, event, id, image, label, type, volume"),
                ("--format", "FORMAT", "value", "format", "text",
                 "json, or a template such as '{{.Action}} {{.Actor.ID}}'"),
                ("--since", "TIME", "value", "since", "timestamps.moment",
                 ("Only from this time on: 2026-01-31T12:00:00, seconds since 1970, or "
                  "10m for ten minutes ago")),
                ("--until", "TIME", "value", "until", "timestamps.moment", "End then"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print events until the time of --until, or until it is interrupted."""
    from rootless.cli.template import Renderer, compile_template
    from rootless.engine.query import filters
    from rootless.engine.state import events

    chosen = filters.chooses_event(filters.parse(values.get("filters") or (), filters.EVENT_KEYS))
    template = values.get("format") or ""
    template = "{{json .}}" if template == "json" else template
    renderer = Renderer(compile_template(template, escapes=True), strict=True) if template else None
    for event in events.read(values.get("since"), values.get("until")):
        if chosen(event):
            text = renderer.render(message(event)) if renderer else line(event)
            streams.write(text + "\n")
    return 0


def line(event: dict[str, Any]) -> str:
    """Return Docker's line: time, type, action, id and the attributes by their names."""
    seconds, rest = divmod(event["time"], 10**9)
    moment = time.localtime(seconds)
    zone = time.strftime("%z", moment)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{rest:09}{zone[:3]}:{zone[3:]}"
    text = f"{stamp} {event['type']} {event['action']} {event['id']}"
    attributes = sorted(event["attributes"].items())
    if attributes:
        text += f" ({', '.join(f'{key}={value}' for key, value in attributes)})"
    return escape(text)


def message(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event under the names of Docker's events.Message, and its JSON."""
    from rootless.cli.template_functions import Shown

    container = event["type"] == "container"
    image = event["attributes"].get("image", "") if container else ""
    actor = {"ID": event["id"], "Attributes": event["attributes"]}
    found = Shown(
        Type=event["type"],
        Action=event["action"],
        Actor=actor,
        Scope="local",
        Time=event["time"] // 10**9,
        TimeNano=event["time"],
        Status=event["action"] if event["type"] != "volume" else "",
        ID=event["id"] if event["type"] != "volume" else "",
        From=image,
    )
    legacy = {"status": found["Status"], "id": found["ID"], "from": image}
    found.document = {
        **{key: value for key, value in legacy.items() if value},
        "Type": event["type"],
        "Action": event["action"],
        "Actor": actor,
        "scope": "local",
        "time": found["Time"],
        "timeNano": event["time"],
    }
    return found
