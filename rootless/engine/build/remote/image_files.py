"""Image files behind URIs: `oras://` of a registry, http and https of any server.

Each is kept in the store (`image.store.image_files`). One that is here is not asked for again, as
an image is not, unless that is wanted.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from rootless import paths
from rootless.errors import RlessError, escape
from rootless.image.squashfs import image_file
from rootless.image.squashfs.sif_writer import executable_mode
from rootless.image.store.image_files import Place
from rootless.linux.files import Output
from rootless.rootfs.copy import copy_data

if TYPE_CHECKING:
    from rootless.image.model.reference import Reference


def held(uri: str, *, asks: bool = False, platform: str | None = None, quiet: bool = False) -> str:
    """Return the path of the file that a URI names, which is fetched if it is not here.

    Args:
        asks: ask what the URI means now.
        quiet: show no progress.

    Raises:
        RlessError: there is none, or it is no image, or it cannot be reached.
    """
    root = paths.storage_root()
    place = Place(root, uri, platform or "")
    if not asks and (path := place.find()):
        return path
    with place.locked():
        if not asks and (path := place.find()):
            return path
        fetch = _of_registry if uri.startswith("oras:") else _of_server
        path = place.keep(fetch(uri, place, root, platform, quiet))
    try:
        image_file.read(path, root)
    except RlessError as error:
        os.unlink(path)
        raise RlessError(f"{shown(uri)} is no image file: {error.message}", error.hint) from error
    return path


def copy(uri: str, target: str, *, platform: str | None = None, quiet: bool = False) -> None:
    """Write the file that a URI names now, whole or not at all, in the place of another one.

    Where the file system can share blocks, it is no second copy.

    Raises:
        RlessError: as of `held`, or it cannot be written.
    """
    with open(held(uri, asks=True, platform=platform, quiet=quiet), "rb") as source:
        try:
            with Output(target, mode=executable_mode(), durable=True) as file:
                copy_data(source.fileno(), file.fd, os.fstat(source.fileno()))
        except OSError as error:
            raise RlessError(
                f"cannot write {escape(target)}: {error.strerror}", "name a file elsewhere"
            ) from error


def reference_of(uri: str) -> Reference:
    """Return what an `oras://` URI names."""
    from rootless.image.model.reference import parse

    return parse(f"docker:{uri.removeprefix('oras:')}")


def _of_registry(uri: str, place: Place, root: str, platform: str | None, quiet: bool) -> str:
    from rootless.image.model.platforms import parse_platform
    from rootless.image.registry.progress import Progress
    from rootless.image.transfer.oras import FileRegistry
    from rootless.image.trust.guard import Guard

    reference = reference_of(uri)
    guard = Guard(reference)
    guard.refuse_early()
    registry, progress = FileRegistry(reference), Progress(quiet=quiet)
    try:
        source = guard.watch(registry)
        (layer,) = source.find(parse_platform(platform)).layers
        digest = layer.digest or ""
        if not place.find(digest):
            layer.fd = os.open(place.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                source.fetch([layer], os.path.dirname(place.part), progress)
            finally:
                os.close(layer.fd)
        return digest
    finally:
        progress.finish()
        registry.close()


def _of_server(uri: str, place: Place, root: str, platform: str | None, quiet: bool) -> str:
    from rootless.engine.build.remote.download import Memory, fetch

    memory = Memory(root)
    digest = ""
    for asks in (True, False):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.part)
        answer = fetch(uri, place.part, {}, memory=memory, asks=asks)
        digest = answer.digest
        if answer.path or place.find(digest):
            break  # else it is as it was, and was removed here
    return digest


def shown(uri: str) -> str:
    """Return a URI for messages, without what may be secret in it."""
    from rootless.image.registry import http

    return escape(uri)[:200] if uri.startswith("oras:") else http.shown(uri)
