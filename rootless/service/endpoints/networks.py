"""What networks there are, and all about one."""

from __future__ import annotations

from typing import Any

from rootless.engine.networks import store
from rootless.engine.query import filters as engine_filters
from rootless.engine.query.inspect import BUILT_IN, inspect_network
from rootless.errors import CONFLICT, INVALID, RlessError
from rootless.service import children, inputs
from rootless.service.endpoints.volumes import truth
from rootless.service.forms import request as forms
from rootless.service.http import HttpError, Request, Response

_FILTERS = ("dangling", "driver", "id", "label", "label!", "name", "scope", "type")
_NOT_MADE = ("host", "none")  # Docker shows these modes as networks


async def list_all(request: Request) -> Response:
    """List networks, and the modes that Docker counts among them."""
    given = inputs.filters(request, _FILTERS)
    return Response((await children.call(_list, given, kill=True)).value)


def _list(given: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return the networks of a list; for a child process, since the default one may be made."""
    names = [engine_filters.pattern("name", text) for text in given.get("name", ())]
    dangling = {truth("dangling", text) for text in given.get("dangling", ())}
    store.find(store.DEFAULT)
    everything = [
        *(inspect_network(one.name) for one in store.every()),
        *(built_in(name) for name in _NOT_MADE),
    ]
    found = []
    for one in everything:
        is_custom = one["Name"] not in (store.DEFAULT, *_NOT_MADE)
        if (
            engine_filters.matches_labels(one["Labels"], given)
            and (not names or any(test(one["Name"]) for test in names))
            and ("id" not in given or any(one["Id"].startswith(text) for text in given["id"]))
            and ("driver" not in given or one["Driver"] in given["driver"])
            and ("scope" not in given or "local" in given["scope"])
            and ("type" not in given or ("custom" if is_custom else "builtin") in given["type"])
            and (not dangling or is_unused(one, is_custom) in dangling)
        ):
            found.append({**one, "Containers": {}})
    return found


def is_unused(one: dict[str, Any], is_custom: bool) -> bool:
    """Tell whether no container was made for a network."""
    return is_custom and not store.users(store.find(one["Id"]))


def built_in(name: str) -> dict[str, Any]:
    """Return a mode as a network."""
    return {
        "Name": name,
        "Id": BUILT_IN[name],
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": "null" if name == "none" else name,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def mode_of(reference: str) -> str | None:
    """Return the mode that a name or the beginning of an id stands for; None: a network."""
    for name in _NOT_MADE:
        if reference == name or (len(reference) >= 12 and BUILT_IN[name].startswith(reference)):
            return name
    return None


async def inspect(request: Request) -> Response:
    """Show all about a network."""
    reference = request.names["name"]
    mode = mode_of(reference)
    if mode is not None:
        return Response(built_in(mode))
    return Response((await children.call(inspect_network, reference, kill=True)).value)


async def create(request: Request) -> Response:
    """Make a network."""
    body = request.json()
    name, driver = inputs.get(body, "Name", ""), inputs.get(body, "Driver", "") or "bridge"
    if driver != "bridge":
        raise HttpError(400, f"network driver {driver} is not supported: rless has bridge")
    if mode_of(name) is not None or name == store.DEFAULT:
        raise HttpError(403, f"operation is not permitted on predefined {name} network")
    ipam = inputs.mapping(body, "IPAM")
    if inputs.get(ipam, "Driver", "") not in ("", "default"):
        raise HttpError(400, "IPAM: only the driver default is supported")
    subnets = [
        {
            "subnet": inputs.get(one, "Subnet", ""),
            "gateway": inputs.get(one, "Gateway", "") or None,
            "range": inputs.get(one, "IPRange", "") or None,
            "reserved": inputs.pairs(one, "AuxiliaryAddresses"),
        }
        for one in inputs.objects(ipam, "Config")
        if inputs.get(one, "Subnet", "")
    ]
    result = await children.call(
        _create,
        name,
        subnets,
        inputs.get(body, "Internal", False),
        inputs.get(body, "EnableIPv6", False),
        inputs.pairs(body, "Labels"),
        inputs.pairs(body, "Options"),
    )
    return Response({"Id": result.value, "Warning": "".join(result.warnings)}, 201)


def _create(
    name: str,
    subnets: list[dict[str, Any]],
    internal: bool,
    ipv6: bool,
    labels: dict[str, str],
    options: dict[str, str],
) -> str:
    if any(one.name == name for one in store.every()):
        raise RlessError(f"network with name {name} already exists", exit_code=1, kind=CONFLICT)
    try:
        made = store.create(
            name, subnets, internal=internal, ipv6=ipv6, labels=labels, options=options
        )
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise
    return made.id


async def remove(request: Request) -> Response:
    """Remove a network that no container runs in."""
    reference = request.names["name"]
    if mode_of(reference) is not None:
        raise HttpError(403, f"{reference} is a pre-defined network and cannot be removed")
    await children.call(_remove, reference)
    return Response(status=204)


def _remove(reference: str) -> None:
    store.remove(store.find(reference))


async def connect(request: Request) -> Response:
    """Connect a container to a network."""
    body = request.json()
    try:
        given = forms.endpoint(inputs.mapping(body, "EndpointConfig"))
    except RlessError as error:
        raise HttpError(400, str(error)) from error
    container = inputs.get(body, "Container", "")
    await children.call(_connect, request.names["name"], container, given)
    return Response()


def _connect(reference: str, container: str, endpoint: dict[str, Any]) -> None:
    from rootless.engine.manage import network_connect

    network_connect.connect(reference, container, endpoint)


async def disconnect(request: Request) -> Response:
    """Disconnect a container from a network."""
    body = request.json()
    container = inputs.get(body, "Container", "")
    await children.call(_disconnect, request.names["name"], container)
    return Response()


def _disconnect(reference: str, container: str) -> None:
    from rootless.engine.manage import network_connect

    # Docker's `Force` is for a member that is gone: there are none here.
    network_connect.disconnect(reference, container)
