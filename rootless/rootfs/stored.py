"""The contents of a container's workspace, and where each driver keeps the container's changes.

A workspace outlives its mounts. Each driver leaves a mark in it, so the driver of the first start
can be found without a record:

    copied                the driver copy: merged/ is the whole root
    fuse-overlayfs.log    the driver fuse-overlayfs
    work/                 the kernel's overlay, if neither of the others exists
    host/                 the image `host:`: an upper directory for each of the host's
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Part:
    """One writable directory of a container's root, and what lies below it.

    Attributes:
        prefix: where it is mounted, b"" for the root, else without a slash in front.
        upper: holds what was changed; for the driver copy, all files.
        layers: the directories below, bottom to top.
        whole: `upper` has all files, not the changed ones only.
        marks: files named `.wh.NAME` in `upper` say that NAME was deleted.
        since: nanoseconds of the clock of `upper`'s file system when the copy was complete.
        touched: directories of layers that have all that was changed, bottom to top; []: what was
            changed is found by comparing.
    """

    __slots__ = ("layers", "marks", "prefix", "since", "touched", "upper", "whole")

    def __init__(
        self, prefix: bytes, upper: str, layers: Sequence[str], *, whole: bool = False
    ) -> None:
        self.prefix = prefix
        self.upper = upper
        self.layers = list(layers)
        self.whole = whole
        self.marks = False
        self.since = 0
        self.touched: list[str] = []


def driver(workspace: str) -> str | None:
    """Return the driver that an earlier start took; None: there was no start yet."""
    if os.path.isdir(f"{workspace}/copied"):
        return "copy"
    if not os.path.isdir(f"{workspace}/work"):
        return None
    return "fuse-overlayfs" if os.path.exists(f"{workspace}/fuse-overlayfs.log") else "overlay"


def parts(workspace: str, layers: Sequence[str]) -> list[Part]:
    """Return where a container's changes to its root are kept; [] before its first start.

    Args:
        layers: of the root, bottom to top.
    """
    found = driver(workspace)
    if found is None:
        return []
    if found != "copy":
        part = Part(b"", f"{workspace}/upper", layers)
        part.marks = found == "fuse-overlayfs"
        return [part]
    root = Part(b"", f"{workspace}/merged", layers, whole=True)
    root.since = os.stat(f"{workspace}/copied").st_ctime_ns
    return [root]


def host_parts(workspace: str, skeleton: str) -> list[Part]:
    """Return the same for the image `host:`, of which each directory is a part.

    Args:
        skeleton: the directory that `host.mount` has made the root of.
    """
    found = parts(workspace, [f"{skeleton}/root"])
    try:
        names = sorted(os.listdir(f"{workspace}/host"))
    except FileNotFoundError:
        names = []
    for name in names:
        path = name.replace("%", "/")
        layers = [f"/{path}", f"{skeleton}/dirs/{path}"]
        part = Part(os.fsencode(path), f"{workspace}/host/{name}/upper", layers)
        part.marks = driver(f"{workspace}/host/{name}") == "fuse-overlayfs"
        found.append(part)
    return found
