"""`export`: a container's root as one tar archive, without volumes."""

from __future__ import annotations

import os

from rootless.engine.files import rootfs_access
from rootless.engine.state.container import find
from rootless.engine.state.events import of_container
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.tar_writer import TarWriter
from rootless.linux.walk import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def export(reference: str, output: Callable[[], int]) -> None:
    """Write all files of a container's root to a descriptor, by the order of their names.

    Args:
        output: opens the descriptor, once it is known that there is such a container.

    Raises:
        RlessError: no such container; the output is full.
    """
    container = find(reference)
    out = output()
    # The root of `host:` is made of many mounts. There the others are known by their targets.
    is_host = rootfs_access.source_kind(container) == "host"
    hidden = rootfs_access.mount_targets(container) if is_host else set()

    def send(root_fd: int) -> None:
        top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
        writer = TarWriter(out)
        archiver = Archiver(writer, lenient=is_host)
        for entry in walk(top):
            if entry.path in hidden:
                entry.skip = True
                if entry.fd < 0:
                    continue
            if entry.path and not entry.leaving:
                archiver.add(entry.path, entry)
        writer.end()

    rootfs_access.call(container, send, volumes=is_host, purpose="export")
    of_container("export", container)
