"""Images come and go: pull, push, import; and what a registry says of them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from rootless.errors import INVALID, RlessError
from rootless.image.model.reference import parse
from rootless.image.registry import auth
from rootless.image.registry.credentials import Credentials
from rootless.service import children, inputs
from rootless.service.http import JSON_MOST, HttpError, Request, Response
from rootless.service.relay import relay

if TYPE_CHECKING:
    from collections.abc import Sequence

_URL = ("http://", "https://")


async def create(request: Request) -> None:
    """Pull an image, or make one of an archive."""
    if request.text("fromSrc"):
        await _import(request)
        return
    await request.connection.body(JSON_MOST)
    name, tagged = request.text("fromImage"), request.text("tag")
    if not name:
        raise HttpError(400, "neither fromImage nor fromSrc is given")
    if tagged:
        name += f"@{tagged}" if ":" in tagged else f":{tagged}"
    check_name(name)
    await _work(request, _pull, name, request.text("platform") or None, login_of(request))


async def _work(request: Request, function: Any, *args: Any) -> None:
    """Do work on images in a child, and send what it tells."""
    async with children.slot("pull"):
        child = children.Piped(function, *args)
        try:
            child.give_nothing()
            await relay(request, child)
        finally:
            child.close()


def check_name(name: str) -> None:
    """Refuse what is not the name of an image of a registry.

    Raises:
        HttpError: it is none.
    """
    try:
        is_name = name[:1] not in ("/", ".") and parse(name).transport == "docker"
    except RlessError as error:
        raise HttpError(400, str(error)) from None
    if not is_name:
        raise HttpError(400, f"{name!r} is not the name of an image of a registry")


def login_of(request: Request) -> Credentials | None:
    """Return what the client logs in with: an AuthConfig of Docker in base64url.

    Raises:
        HttpError: it is something else.
    """
    given = decode_header(request, "X-Registry-Auth")
    return _credentials(given, "X-Registry-Auth") if given else None


def decode_header(request: Request, name: str) -> dict[str, Any]:
    """Return the object of JSON that a header has in base64url; {} if it has none.

    Raises:
        HttpError: it is something else.
    """
    header = request.headers.get(name.lower(), "")
    try:
        text = header.replace("-", "+").replace("_", "/").rstrip("=")
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        given = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise HttpError(400, f"{name} is not JSON in base64url") from None
    if given is not None and not isinstance(given, dict):
        raise HttpError(400, f"{name} is not an object")
    return given or {}


def _credentials(given: dict[str, Any], what: str) -> Credentials | None:
    if given.get("registrytoken"):
        raise HttpError(501, "rless does not take a registrytoken yet")
    try:
        return auth.decode(given, what)
    except RlessError as error:
        raise HttpError(400, str(error)) from None


def logins_of(request: Request) -> dict[str, Credentials]:
    """Return the credentials of a build, by registry: X-Registry-Config.

    Raises:
        HttpError: it is something else.
    """
    from rootless.engine.images.registries import server_of

    found = {}
    for server, given in decode_header(request, "X-Registry-Config").items():
        if not isinstance(given, dict):
            raise HttpError(400, "X-Registry-Config has an entry that is not an object")
        login = _credentials(given, "X-Registry-Config")
        if login is None:
            continue
        try:
            found[server_of(server)] = login
        except RlessError as error:
            raise HttpError(400, str(error)) from None
    return found


def _pull(name: str, platform: str | None, login: Credentials | None) -> None:
    from rootless.engine.images import images
    from rootless.service.forms.progress import Lines

    progress = Lines()
    if login is not None:
        auth.give(parse(name).registry, login)
    images.pull(name, platform, progress=progress)
    progress.release()


# -- push ------------------------------------------------------------------------------------------


async def push(request: Request) -> None:
    """Send an image, or all tags of a repository, to a registry."""
    await request.connection.body(JSON_MOST)
    name, tagged = request.names["name"], request.text("tag")
    check_name(f"{name}:{tagged}" if tagged else name)
    await _work(request, _push, name, tagged, login_of(request))


def _push(repository: str, tagged: str, login: Credentials | None) -> None:
    from rootless.engine.images import registries
    from rootless.service.forms.progress import Lines

    last = repository.rpartition("/")[2]
    names = [f"{repository}:{tagged}"] if tagged else [repository]
    if not tagged and ":" not in last and "@" not in last:
        names = registries.names_of(repository) or names
    if login is not None:
        auth.give(parse(repository).registry, login)
    progress = Lines()
    for name in names:
        full, made = registries.push(name, progress=progress)
        tag = full.rpartition(":")[2]
        aux = {"Tag": tag, "Digest": made["digest"], "Size": made["size"]}
        progress.tell({"progressDetail": {}, "aux": aux})


# -- import ----------------------------------------------------------------------------------------


async def _import(request: Request) -> None:
    source, repository = request.text("fromSrc"), request.text("repo")
    if source != "-" and not source.startswith(_URL):
        raise HttpError(400, f"fromSrc: {source!r} is neither - nor a URL")
    tagged = request.text("tag")
    name = f"{repository}:{tagged}" if repository and tagged else repository
    if name:
        check_name(name)
    lines = [line for text in request.query.get("changes", ()) for line in text.split("\n") if line]
    said = [request.text("message"), request.text("platform")]
    async with children.slot("pull"):
        child = children.Piped(_make, source, name or None, lines, said)
        try:
            await child.give(request.connection.chunks())
            await relay(request, child)
        finally:
            child.close()


def _make(source: str, name: str | None, lines: Sequence[str], said: Sequence[str]) -> None:
    from rootless.engine.images.archives import import_archive
    from rootless.service.forms.progress import Lines

    message, platform = said
    image = import_archive(
        source,
        name,
        instructions=lines,
        message=message or None,
        platform=platform or None,
        quiet=True,
    )
    Lines().tell({"status": image.id})


# -- what a registry says --------------------------------------------------------------------------


async def login(request: Request) -> Response:
    """Ask a registry whether it knows a name and password; nothing is kept."""
    given = {key.lower(): value for key, value in request.json().items()}
    server = inputs.get(given, "serveraddress", "")
    credentials = _credentials(given, "the body")
    if credentials is None:
        raise HttpError(400, "neither a name and password nor a token is given")
    await children.call(_verify, server, credentials, kill=True)
    return Response({"Status": "Login Succeeded", "IdentityToken": ""})


def _verify(server: str, credentials: Credentials) -> None:
    from rootless.engine.images import registries

    try:
        name = registries.server_of(server)
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise
    registries.verify(name, credentials)


async def describe(request: Request) -> Response:
    """Show what a registry has under a name."""
    name = request.names["name"]
    check_name(name)
    result = await children.call(_describe, name, login_of(request), kill=True)
    descriptor, platforms = result.value
    return Response({"Descriptor": descriptor, "Platforms": platforms})


def _describe(name: str, login: Credentials | None) -> Any:
    from rootless.engine.images import registries

    if login is not None:
        auth.give(parse(name).registry, login)
    return registries.describe(name)


# -- search ----------------------------------------------------------------------------------------


async def search(request: Request) -> Response:
    """Show what a registry finds for a term."""
    from rootless.cli.flags.search import condition, most

    term, limit = request.text("term"), request.number("limit") or 25
    if not term.strip("/ "):
        raise HttpError(400, "the term is empty")
    given = inputs.filters(request, ("stars", "is-official", "is-automated"))
    try:
        most(str(limit))
        conditions = [condition(f"{key}={text}") for key in given for text in given[key]]
    except ValueError as error:
        raise HttpError(400, f"limit or filter: it {error}") from None
    result = await children.call(_search, term, limit, conditions, kill=True)
    return Response(result.value)


def _search(term: str, limit: int, conditions: list[tuple[str, int]]) -> list[dict[str, Any]]:
    from rootless.engine.images import registries

    return registries.search(term, limit, conditions)
