"""Remove what is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.service import children, inputs
from rootless.service.http import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_USUAL = ("label", "label!", "until")
_FALSE = ("0", "false")


async def containers(request: Request) -> Response:
    """Remove the containers that do not run."""
    given = inputs.filters(request, _USUAL)
    names, size = (await children.call(_containers, given)).value
    return Response({"ContainersDeleted": names or None, "SpaceReclaimed": size})


def _containers(given: Mapping[str, Sequence[str]]) -> tuple[list[str], int]:
    from rootless.engine.manage import prune

    gone = prune.containers(given)
    return gone.names, gone.size


async def images(request: Request) -> Response:
    """Remove images without a name, or with `dangling=false` all that no container has."""
    given = inputs.filters(request, (*_USUAL, "dangling"))
    everything = any(text in _FALSE for text in given.pop("dangling", ["true"]))
    lines, size = (await children.call(_images, given, everything, slot="pull")).value
    deleted = [dict([line.split(": ", 1)]) for line in lines]
    return Response({"ImagesDeleted": deleted or None, "SpaceReclaimed": size})


def _images(given: Mapping[str, Sequence[str]], everything: bool) -> tuple[list[str], int]:
    from rootless.engine.images import images as engine

    return engine.prune(given, everything)


async def build(request: Request) -> Response:
    """Remove the build cache: what no image has, or all of it."""
    given = inputs.filters(request, ("until", "unused-for", "id", "type", "inuse", "private"))
    limit = {key: texts for key, texts in given.items() if key == "until"}
    names, size = (await children.call(_build, limit, request.flag("all"), slot="pull")).value
    return Response({"CachesDeleted": names or None, "SpaceReclaimed": size})


def _build(given: Mapping[str, Sequence[str]], everything: bool) -> tuple[list[str], int]:
    from rootless.engine.manage import prune

    gone = prune.build_cache(given, everything)
    return gone.names, gone.size


async def volumes(request: Request) -> Response:
    """Remove volumes that no container has: since 1.42 those with a name by `all` only."""
    given = inputs.filters(request, ("label", "label!", "all"))
    asked = given.pop("all", ["false"])
    everything = request.version < (1, 42) or any(text not in _FALSE for text in asked)
    names, size = (await children.call(_volumes, given, everything)).value
    return Response({"VolumesDeleted": names or None, "SpaceReclaimed": size})


def _volumes(given: Mapping[str, Sequence[str]], everything: bool) -> tuple[list[str], int]:
    from rootless.engine.manage import prune

    gone = prune.volumes(given, everything)
    return gone.names, gone.size


async def networks(request: Request) -> Response:
    """Remove the networks that no container was made for."""
    given = inputs.filters(request, _USUAL)
    names: Any = (await children.call(_networks, given)).value
    return Response({"NetworksDeleted": names or None})


def _networks(given: Mapping[str, Sequence[str]]) -> list[str]:
    from rootless.engine.manage import prune

    return prune.networks(given)
