"""What images there are, and all about one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from rootless.engine.images import images
from rootless.errors import INVALID, NOT_FOUND, RlessError
from rootless.image.model.reference import parse
from rootless.image.registry import auth
from rootless.service import children, inputs
from rootless.service.endpoints.files import send
from rootless.service.http import JSON_MOST, HttpError, Request, Response

if TYPE_CHECKING:
    from rootless.image.registry.credentials import Credentials
    from rootless.service.connection import Connection

_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")


async def list_all(request: Request) -> Response:
    """List images: one entry for each, with all of its names."""
    given = inputs.filters(request, _FILTERS)
    found: dict[str, dict[str, Any]] = {}
    for row in images.list_images(given, digests=True):
        entry = found.setdefault(row["id"], _summary(row))
        if not row["name"]:
            continue
        if row["tag"]:
            entry["RepoTags"].append(f"{row['repository']}:{row['tag']}")
        if row["digest"]:
            entry["RepoDigests"].append(f"{row['repository']}@{row['digest']}")
    if request.version < (1, 44):
        for entry in found.values():
            entry["VirtualSize"] = entry["Size"]
    return Response(list(found.values()))


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "Id": row["id"],
        "ParentId": "",
        "RepoTags": [],
        "RepoDigests": [],
        "Created": int(row["created"]),
        "Size": row["size"],
        "SharedSize": -1,
        "Labels": row["labels"] or None,
        "Containers": -1,
    }


async def inspect(request: Request) -> Response:
    """Show all about an image."""
    found = images.inspect_image(request.names["name"])
    del found["ReadOnly"]
    if request.version >= (1, 44):
        del found["VirtualSize"]
    return Response(found)


async def history(request: Request) -> Response:
    """Show the steps that an image was made by."""
    name = request.names["name"]
    tags = images.inspect_image(name)["RepoTags"]
    rows = images.history(name)
    return Response(
        [
            {
                "Id": row["id"] or "<missing>",
                "Created": int(row["created"]),
                "CreatedBy": row["created_by"],
                "Tags": (tags or None) if index == 0 else None,
                "Size": row["size"],
                "Comment": row["comment"],
            }
            for index, row in enumerate(rows)
        ]
    )


async def remove(request: Request) -> Response:
    """Remove a name of an image, and the image with its last one."""
    name, force = request.names["name"], request.flag("force")
    lines = (await children.call(images.remove, name, force, slot="pull")).value
    return Response([dict([line.split(": ", 1)]) for line in lines])


async def tag(request: Request) -> Response:
    """Give an image a further name."""
    repository, tagged = request.text("repo"), request.text("tag")
    target = f"{repository}:{tagged}" if tagged else repository
    await children.call(_tag, request.names["name"], target)
    return Response(status=201)


def _tag(name: str, target: str) -> None:
    try:
        images.tag(name, target)
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise


async def create(request: Request) -> Response | None:
    """Pull an image."""
    await request.connection.body(JSON_MOST)
    name, tagged = request.text("fromImage"), request.text("tag")
    if not name:
        raise HttpError(501, "rless does not import archives through the API yet")
    if tagged:
        name += f"@{tagged}" if ":" in tagged else f":{tagged}"
    if name[:1] in "/." or parse(name).transport != "docker":
        raise HttpError(400, f"{name!r} is not the name of an image of a registry")
    before, login = await _id_of(name), _login(request)
    async with children.slot("pull"):
        child = children.Piped(_pull, name, request.text("platform") or None, login)
        return await request.connection.watch(_progress(request, child, name, before))


async def _id_of(name: str) -> str:
    try:
        return images.find(name).id
    except RlessError:
        return ""


def _login(request: Request) -> Credentials | None:
    """Return what the client logs in with: an AuthConfig of Docker in base64url."""
    header = request.headers.get("x-registry-auth", "")
    if not header:
        return None
    try:
        given = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        login = auth.decode(given, "X-Registry-Auth")
    except (ValueError, RecursionError):
        raise HttpError(400, "X-Registry-Auth is not JSON in base64url") from None
    except RlessError as error:
        raise HttpError(400, str(error)) from None
    if given.get("registrytoken"):
        raise HttpError(501, "rless does not take a registrytoken yet")
    return login


def _pull(name: str, platform: str | None, login: Credentials | None) -> str:
    if login is not None:
        auth.give(parse(name).registry, login)
    try:
        return str(images.pull(name, platform).id)
    except RlessError as error:
        error.kind = error.kind or NOT_FOUND
        raise


async def _progress(request: Request, child: children.Piped, name: str, before: str) -> None:
    """Send what a pull tells, a line each; an error before the first line is a status."""
    connection, rest = request.connection, b""
    held: list[bytes] = []  # what is told before it is known whether there is such an image
    try:
        child.give_nothing()
        async for data in child.output():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                told = _status(line.decode("utf-8", "replace"))
                held.append(_line(told))
                if "id" in told:
                    await _release(connection, held)
        try:
            made = (await child.result()).value
        except RlessError as error:
            if not connection.begun:
                raise
            text = str(error)
            await connection.piece(_line({"errorDetail": {"message": text}, "error": text}))
        else:
            await _release(connection, held)
            what = "Image is up to date" if made == before else "Downloaded newer image"
            await connection.piece(_line({"status": f"Status: {what} for {name}"}))
        await connection.finish()
    finally:
        child.close()


async def _release(connection: Connection, held: list[bytes]) -> None:
    if not connection.begun:
        await connection.begin("application/json")
    for line in held:
        await connection.piece(line)
    held.clear()


def _status(text: str) -> dict[str, Any]:
    """Return a line of a pull: that of a layer has its id."""
    layer, colon, state = text.partition(": ")
    if colon and len(layer) == 12 and layer.isalnum():
        return {"status": state, "progressDetail": {}, "id": layer}
    return {"status": text}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\r\n"


async def save(request: Request) -> None:
    """Send images as an archive."""
    names = request.query.get("names") or [request.names.get("name", "")]
    names = [one for text in names for one in text.split(",")]
    await send(request, "application/x-tar", {}, _save, names)


def _save(names: list[str]) -> None:
    from rootless.engine.images.archives import save as engine

    engine(names, None, quiet=True)


async def load(request: Request) -> None:
    """Take images of an archive into the store."""
    connection = request.connection
    async with children.slot("pull"):
        child = children.Piped(_load)
        try:
            await child.give(connection.chunks())
            names = (await child.result()).value
        finally:
            child.close()
    await connection.begin("application/json")
    for name in names:
        what = "Loaded image ID" if name.startswith("sha256:") else "Loaded image"
        await connection.piece(_line({"stream": f"{what}: {name}\n"}))
    await connection.finish()


def _load() -> list[str]:
    from rootless.engine.images.archives import load as engine

    found = []
    for image, references in engine(None, quiet=True):
        found += [reference.familiar for reference in references] or [image.id]
    return found


async def commit(request: Request) -> Response:
    """Make an image of a container."""
    if any(request.json().values()):
        raise HttpError(400, "a config in the body is not supported: use changes")
    repository, tagged = request.text("repo"), request.text("tag")
    name = f"{repository}:{tagged}" if repository and tagged else repository
    lines = [line for text in request.query.get("changes", ()) for line in text.split("\n") if line]
    result = await children.call(
        _commit,
        request.text("container"),
        name or None,
        [request.text("author"), request.text("comment")],
        lines,
        request.flag("pause", True),
        slot="pull",
    )
    return Response({"Id": result.value}, 201)


def _commit(
    container: str, name: str | None, said: list[str], lines: list[str], pause: bool
) -> str:
    from rootless.engine.files.commit import commit as engine

    author, message = said
    return engine(container, name, author=author, message=message, change=lines, pause=pause)
