"""The changes of a container to its files: for `diff` and `commit` (`image.layer.changes`)."""

from __future__ import annotations

import os

from rootless.engine.files import rootfs_access
from rootless.engine.state.container import find
from rootless.errors import RlessError
from rootless.image.layer.changes import changes
from rootless.image.store.staging import raise_descriptor_limit
from rootless.linux.idmap import call_in_userns
from rootless.paths import storage_root
from rootless.rootfs import stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rootless.engine.state.container import Container
    from rootless.rootfs.stored import Part


def diff(reference: str) -> list[tuple[str, str]]:
    """Return (kind, absolute path) of all changes of a container, by path.

    Raises:
        RlessError: no such container, or one without an image to compare with.
    """
    container = find(reference)
    find_parts = parts_of(container)
    hidden = rootfs_access.mount_targets(container)
    found = call_in_userns(container.idmap(), _lines, find_parts, hidden)
    return [(kind, path) for kind, path in found]


def _lines(
    find_parts: Callable[[], list[Part]], hidden: Collection[bytes]
) -> list[tuple[str, str]]:
    raise_descriptor_limit()
    lines = []
    for part in find_parts():
        lines += [
            (b"/" + change.path, change.kind)
            for change in changes(part, hidden)
            if change.path  # of the root itself Docker says nothing
        ]
    return [(kind, os.fsdecode(path)) for path, kind in sorted(lines)]


def parts_of(container: Container) -> Callable[[], list[Part]]:
    """Return what finds the writable parts of a container's root, in its user namespace.

    Raises:
        RlessError: it has no image that its root could be compared with.
    """
    workspace = container.directory
    kind = rootfs_access.source_kind(container)
    if kind == "host":
        cache, exclude = f"{storage_root()}/host", rootfs_access.homes()

        def host_parts() -> list[Part]:
            from rootless.rootfs import host

            skeleton, lock_fd = host.skeleton_of(cache, container.idmap(), exclude)
            found = stored.host_parts(workspace, skeleton)
            os.close(lock_fd)
            return found

        return host_parts
    if kind == "squashfs":
        path, offset, identity, cache = rootfs_access.packed_image(container)

        def packed_parts() -> list[Part]:
            from rootless.rootfs import squashfs

            # A place beside that of the container, which may run.
            place = f"{workspace}/looked-at"
            os.makedirs(place, 0o700, exist_ok=True)
            lower = squashfs.show(path, offset, identity, place, container.idmap(), cache)
            return stored.parts(workspace, [lower.path])

        return packed_parts
    if kind == "layers":
        layers, _ = rootfs_access.image_layers(container)
    else:
        path = container.facts["image"] or ""
        if not path.endswith(":O"):
            raise RlessError(
                f"container {container.facts['name']} has no image to compare with",
                "its root is the directory of --rootfs itself; --rootfs DIR:O keeps the two apart",
                1,
            )
        layers = [os.path.abspath(path[:-2])]
    return lambda: stored.parts(workspace, layers)
