"""What images there are, and all about one."""

from __future__ import annotations

from rootless.engine.images import images
from rootless.errors import INVALID, RlessError
from rootless.service import children, inputs
from rootless.service.endpoints.files import send
from rootless.service.forms import images as forms
from rootless.service.forms.progress import line
from rootless.service.http import HttpError, Request, Response

_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")


async def list_all(request: Request) -> Response:
    """List images: one entry for each, with all of its names."""
    given = inputs.filters(request, _FILTERS)
    return Response(forms.summaries(given, request.version))


async def inspect(request: Request) -> Response:
    """Show all about an image."""
    found = images.inspect_image(request.names["name"])
    del found["ReadOnly"]
    if request.version >= (1, 44):
        del found["VirtualSize"]
    # Gone from Docker's since 1.45, and read by docker-compose 1.29 when it makes a container anew.
    found["ContainerConfig"] = found["Config"]
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
    return Response([dict([text.split(": ", 1)]) for text in lines])


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
        except RlessError as error:  # a line, as Docker does: clients look for it
            said = [{"errorDetail": {"message": str(error)}, "error": str(error)}]
        else:
            said = [{"stream": f"{_loaded(name)}: {name}\n"} for name in names]
        finally:
            child.close()
    await connection.begin("application/json")
    for one in said:
        await connection.piece(line(one))
    await connection.finish()


def _loaded(name: str) -> str:
    return "Loaded image ID" if name.startswith("sha256:") else "Loaded image"


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
    lines = [one for text in request.query.get("changes", ()) for one in text.split("\n") if one]
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
