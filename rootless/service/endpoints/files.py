"""Files of a container: `docker cp`, export, changes."""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from rootless.engine import timestamps
from rootless.engine.state.container import find
from rootless.errors import CONFLICT, FORBIDDEN, INVALID, RlessError
from rootless.service import children
from rootless.service.endpoints.containers import reference
from rootless.service.http import HttpError, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_KINDS = {"A": 1, "C": 0, "D": 2}
_STAT = "X-Docker-Container-Path-Stat"
# The bits of Go's FileMode beside those of permissions.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def go_mode(mode: int) -> int:
    """Return a mode as Go's FileMode has it."""
    found = mode & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0)
    return found | sum(bit for mine, bit in _GO_BITS.items() if mode & mine)


def _path(request: Request) -> str:
    path = request.text("path")
    if not path or "\0" in path:
        raise HttpError(400, "no path is given")
    return path


async def _stat(request: Request) -> dict[str, str]:
    """Return the header that describes the file."""
    name, path = find(reference(request)).id, _path(request)
    found = (await children.call(_describe, name, path, kill=True)).value
    return {_STAT: base64.b64encode(json.dumps(found).encode()).decode()}


def _describe(name: str, path: str) -> dict[str, Any]:
    from rootless.engine.files import rootfs_access
    from rootless.engine.files.copy_paths import Path, container_side

    container = find(name)
    wanted = Path(path)

    def look(root_fd: int) -> list[Any]:
        spot = container_side(root_fd, container.facts["name"]).source(wanted, False)
        status = spot.status
        assert status is not None
        is_link = stat.S_ISLNK(status.st_mode)
        target = os.readlink(spot.name, dir_fd=spot.dir_fd) if is_link else b""
        return [status.st_size, status.st_mode, status.st_mtime, os.fsdecode(target)]

    size, mode, changed, target = rootfs_access.call(container, look, purpose="cp")
    if target and not target.startswith("/"):
        target = os.path.normpath(os.path.join("/", os.path.dirname(path.rstrip("/")), target))
    return {
        "name": os.path.basename(path.rstrip("/")) or "/",
        "size": size,
        "mode": go_mode(mode),
        "mtime": timestamps.show(changed),
        "linkTarget": target,
    }


async def head(request: Request) -> Response:
    """Describe a file of a container."""
    return Response(headers=await _stat(request))


async def get(request: Request) -> None:
    """Send a file or a directory of a container as an archive."""
    headers = await _stat(request)
    source = f"{find(reference(request)).id}:{_path(request)}"
    await send(request, "application/x-tar", headers, _copy, source, "-", False)


def _copy(source: str, destination: str, archive: bool) -> None:
    from rootless.engine.files.copy import CopyRequest, copy

    copy(source, destination, CopyRequest(archive=archive, quiet=True))


async def send(
    request: Request,
    kind: str,
    headers: dict[str, str],
    function: Callable[..., Any],
    *args: Any,
) -> None:
    """Send what a child writes.

    Raises:
        RlessError: it has failed before it has written anything.
    """
    connection = request.connection
    child = children.Piped(function, *args)
    try:
        child.give_nothing()
        async for data in child.output():
            if not connection.begun:
                await connection.begin(kind, headers)
            await connection.piece(data)
        await child.result()
        if not connection.begun:
            await connection.begin(kind, headers)
        await connection.finish()
    finally:
        child.close()


async def put(request: Request) -> Response:
    """Unpack an archive into a directory of a container."""
    container, path = find(reference(request)), _path(request)
    if request.flag("noOverwriteDirNonDir") and request.text("noOverwriteDirNonDir") == "never":
        raise HttpError(400, "noOverwriteDirNonDir is not a boolean")
    child = children.Piped(_unpack, f"{container.id}:{path}", request.flag("copyUIDGID"))
    try:
        await child.give(_body(request))
        await child.result()
    finally:
        child.close()
    return Response()


def _unpack(destination: str, archive: bool) -> None:
    name, _, path = destination.partition(":")
    try:
        found = _describe(name, path.rstrip("/") + "/.")
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise
    if not found["mode"] & 1 << 31:
        raise RlessError(f"extraction point is not a directory: {path}", kind=INVALID)
    container = find(name)
    if (container.facts.get("request") or {}).get("read_only"):
        raise RlessError("container rootfs is marked read-only", kind=FORBIDDEN)
    _copy("-", destination, archive)


def _body(request: Request) -> AsyncIterator[bytes]:
    return request.connection.chunks()


async def export(request: Request) -> None:
    """Send all files of a container as an archive."""
    name = find(reference(request)).id
    await send(request, "application/octet-stream", {}, _export, name)


def _export(name: str) -> None:
    from rootless.engine.files.export import export as engine

    engine(name, lambda: 1)


async def changes(request: Request) -> Response:
    """Show what has changed in a container's files."""
    name = find(reference(request)).id
    found = (await children.call(_changes, name, kill=True)).value
    return Response([{"Path": path, "Kind": _KINDS[kind]} for kind, path in found] or None)


def _changes(name: str) -> list[tuple[str, str]]:
    from rootless.engine.files.diff import diff

    try:
        return diff(name)
    except RlessError as error:
        error.kind = error.kind or CONFLICT
        raise
