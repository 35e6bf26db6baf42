"""What containers there are, and all about one."""

from __future__ import annotations

from rootless.service import children, inputs
from rootless.service.forms import containers as forms
from rootless.service.http import HttpError, Request, Response

# Docker's name of a filter -> the engine's.
_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "isolation", "is-task", "label",
    "label!", "name", "network", "publish", "since", "status", "volume",
)  # fmt: skip


def reference(request: Request) -> str:
    """Return the name or id of a container in the path."""
    return request.names["name"].removeprefix("/")


async def list_all(request: Request) -> Response:
    """List containers, as `rless ps` does."""
    from rootless.engine.query import filters
    from rootless.engine.query.ps import list_containers

    given = inputs.filters(request, _FILTERS)
    limit = request.number("limit") or 0
    if "isolation" in given or given.pop("is-task", ["false"]) not in (["false"], ["0"]):
        raise HttpError(400, "rless has neither the filter isolation nor tasks of a swarm")
    everything = request.flag("all") or limit > 0 or bool({"status", "exited"} & given.keys())
    chosen = filters.Chosen(given)
    rows = [row for row in list_containers(everything) if chosen(row)]
    if limit > 0:
        rows = rows[:limit]
    found = [forms.summary(row) for row in rows]
    if request.flag("size"):
        result = await children.call(forms.sizes, [row["id"] for row in rows], kill=True)
        for one in found:
            one.update(result.value.get(one["Id"], {}))
    return Response(found)


async def inspect(request: Request) -> Response:
    """Show all about a container."""
    name = reference(request)
    if request.flag("size") or forms.has_to_ask(name):
        return Response((await children.call(forms.inspected, name, True, kill=True)).value)
    return Response(forms.inspected(name))
