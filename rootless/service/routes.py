"""Which endpoint serves a path.

A name in a path may have slashes, as `/images/docker.io/library/busybox/json` has: it is matched by
what stands before it and behind it, and is decoded once.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rootless.service.http import JSON_MOST, HttpError, Request, Response, decode_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Endpoint = Callable[[Request], Awaitable[Response | None]]

# How a request's body is read, and whether the end of the connection ends its work.
_PLAIN, _BODY, _HIJACK = "plain", "body", "hijack"


@dataclass(frozen=True)
class Route:
    """One path.

    Attributes:
        endpoint: "module.function" of `endpoints`; or, of what is refused, the status and why.
        kind: plain: the body is small; body: the endpoint reads it; hijack: streams follow.
    """

    method: str
    pattern: re.Pattern[str]
    endpoint: str
    kind: str


def _route(line: str) -> Route:
    method, path, endpoint, *rest = line.split()
    expression = re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", path)
    return Route(method, re.compile(expression), endpoint, rest[0] if rest else _PLAIN)


ROUTES = tuple(
    _route(line)
    for line in """
GET /_ping system.ping
HEAD /_ping system.ping
GET /version system.version
GET /info system.info
GET /plugins system.plugins
GET /system/df system.disk_usage
GET /containers/json containers.list_all
GET /containers/{name}/json containers.inspect
POST /containers/prune prune.containers
GET /containers/{name}/archive files.get
HEAD /containers/{name}/archive files.head
PUT /containers/{name}/archive files.put body
GET /containers/{name}/export files.export
GET /containers/{name}/changes files.changes
POST /containers/create lifecycle.create
POST /containers/{name}/start lifecycle.start
POST /containers/{name}/stop lifecycle.stop
POST /containers/{name}/restart lifecycle.restart
POST /containers/{name}/kill lifecycle.kill
POST /containers/{name}/pause lifecycle.pause
POST /containers/{name}/unpause lifecycle.unpause
POST /containers/{name}/rename lifecycle.rename
POST /containers/{name}/update lifecycle.update
POST /containers/{name}/resize lifecycle.resize
POST /containers/{name}/wait lifecycle.wait
GET /containers/{name}/top lifecycle.top
GET /containers/{name}/stats stats.stats
POST /containers/{name}/attach attach.attach hijack
GET /containers/{name}/logs attach.logs
POST /containers/{name}/exec exec.create
DELETE /containers/{name} lifecycle.remove
POST /exec/{id}/start exec.start hijack
POST /exec/{id}/resize exec.resize
GET /exec/{id}/json exec.inspect
GET /events events.events
GET /images/json images.list_all
GET /images/search registry.search
POST /build build.build body
POST /build/prune prune.build
POST /commit images.commit
POST /auth registry.login
GET /distribution/{name}/json registry.describe
POST /images/create registry.create body
POST /images/{name}/push registry.push body
POST /images/load images.load body
GET /images/get images.save
GET /images/{name}/get images.save
POST /images/prune prune.images
POST /images/{name}/tag images.tag
DELETE /images/{name} images.remove
GET /images/{name}/json images.inspect
GET /images/{name}/history images.history
POST /volumes/create volumes.create
POST /volumes/prune prune.volumes
DELETE /volumes/{name} volumes.remove
GET /volumes volumes.list_all
GET /volumes/{name} volumes.inspect
POST /networks/create networks.create
POST /networks/prune prune.networks
POST /networks/{name}/connect networks.connect
POST /networks/{name}/disconnect networks.disconnect
DELETE /networks/{name} networks.remove
GET /networks networks.list_all
GET /networks/{name} networks.inspect
""".split("\n")
    if line
)

_SWARM = "This node is not a swarm manager: rless has no cluster"
_NO_PLUGINS = "rless has no plugins"
_NO_BUILDKIT = "rless does not speak BuildKit's protocol: set DOCKER_BUILDKIT=0"
_REFUSED = tuple(
    (re.compile(pattern), status, why)
    for pattern, status, why in (
        (r"/(swarm|nodes|services|tasks|secrets|configs)(/.*)?", 503, _SWARM),
        (
            r"/plugins/(pull|create|privileges)|/plugins/.+/(enable|disable|push|set|upgrade)",
            501,
            "rless has no plugins",
        ),
        (r"/plugins/.+", 404, "no such plugin: rless has none"),
        (r"/(grpc|session)", 501, _NO_BUILDKIT),
        (r"/containers/.+/attach/ws", 501, "rless does not attach by web sockets"),
        (r"/containers/.+/checkpoints(/.*)?", 501, "rless makes no checkpoints"),
    )
)


async def dispatch(request: Request) -> Response | None:
    """Find the endpoint of a request, and call it.

    Raises:
        HttpError: there is none, or it refuses.
    """
    for route in ROUTES:
        match = route.pattern.fullmatch(request.path) if route.method == request.method else None
        if match is None:
            continue
        request.names = {name: decode_name(text) for name, text in match.groupdict().items()}
        module, _, function = route.endpoint.partition(".")
        endpoint: Endpoint = getattr(
            importlib.import_module(f"rootless.service.endpoints.{module}"), function
        )
        if route.kind == _BODY:
            return await endpoint(request)
        request.body = await request.connection.body(JSON_MOST)
        if route.kind == _HIJACK:
            return await endpoint(request)
        return await request.connection.watch(endpoint(request))
    for pattern, status, why in _REFUSED:
        if pattern.fullmatch(request.path):
            raise HttpError(status, why)
    raise HttpError(404, "page not found")
