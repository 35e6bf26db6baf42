"""Owners as data: where one id is mapped, files belong to root, and their owners are noted.

    in a layer                  the headers of its record (`tarsplit`)
    while a RUN of a build      the attribute user.rless.owner, which a change of the owner sets;
        writes                  it becomes a header when the step's layer is sealed

A file that was copied up for another change has no note; it keeps the owner it has below.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Owner = tuple[int, int]
    Below = dict[bytes, Owner]

ATTRIBUTE = "user.rless.owner"
_COPIED_UP = "user.overlay.origin"  # of overlayfs, hidden while it is mounted
_NONE = (errno.ENODATA, errno.ENOTSUP, errno.EBADF, errno.ENOENT, errno.EPERM)
_MOST = 2**32 - 2


def note(path: str, uid: int | None, gid: int | None) -> None:
    """Note the owner of a file; None leaves a part of it as it is.

    Raises:
        OSError: it can have no note: a link, or a file system without such attributes.
    """
    if uid is None or gid is None:
        before = read(path) or (None, None)
        uid = before[0] if uid is None else uid
        gid = before[1] if gid is None else gid
    text = ":".join("" if number is None else str(number) for number in (uid, gid))
    os.setxattr(path, ATTRIBUTE, text.encode())


def read(file: str | int) -> tuple[int | None, int | None] | None:
    """Return what is noted of a file, None where a part is as it was; None: nothing.

    Args:
        file: its path, or a descriptor.
    """
    try:
        value = os.getxattr(file, ATTRIBUTE)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return None
    uid, colon, gid = value.partition(b":")
    parts = [int(part) if part[:11].isdigit() else None for part in (uid, gid)]
    # A RUN can write what it likes into it.
    if not colon or any(part is not None and part > _MOST for part in parts):
        return None
    return parts[0], parts[1]


class Owners:
    """The owners of the files that a step has written.

    Args:
        below: the owners in the layers below, of files that do not belong to root.
        marked: the kernel's overlayfs wrote them, so it is known which were copied up. Where
            another driver did, all that were below are taken for that.
    """

    def __init__(self, below: Mapping[bytes, Owner], *, marked: bool = True) -> None:
        self._below = below
        self._marked = marked

    def __call__(self, path: bytes, fd: int, status: os.stat_result) -> Owner:
        """Return the owner of a file.

        Args:
            fd: -1 for what has no attributes: links, FIFOs.
        """
        noted = None if fd < 0 else read(fd)
        uid, gid = noted or (None, None)
        path = b"" if path == b"." else path
        if noted == (0, 0) and path in self._below and not _is_copied_up(fd):
            # A new file in place of another, of a program that gives it the owner that stat(2) has
            # shown: useradd(8) with /etc/shadow, sed -i.
            return self._below[path]
        if uid is None or gid is None:
            is_kept = noted or not self._marked or _is_copied_up(fd)
            kept = self._below.get(path, (0, 0)) if is_kept else (0, 0)
            uid, gid = kept[0] if uid is None else uid, kept[1] if gid is None else gid
        return uid, gid


def below(root: str, chain: Sequence[str], known: dict[str, Below]) -> Below:
    """Return the owners in a tree of layers, of files that do not belong to root.

    Args:
        root: of the store. chain: chain ids, bottom first.
        known: by the chain id of the highest layer, what was read before; it is added to.

    Raises:
        RlessError: the record of a layer is damaged.
    """
    from rootless.image.store.store import split_path

    found: Below = {}
    is_whole = True
    for link in chain:
        if is_whole and link in known:
            found = known[link]
            continue
        split = split_path(root, link)
        if not os.path.exists(split):
            is_whole = False  # of an older version, or not brought from a cache yet
            continue
        found = _with_layer(found, split)
        if is_whole:
            known[link] = found
    return found


def _with_layer(lower: Below, split: str) -> Below:
    from rootless.image.layer.tar_reader import HARD_LINK, TarReader
    from rootless.image.layer.tarsplit import headers

    found = dict(lower)
    for member in TarReader(headers(split)):
        path = os.path.normpath(b"/" + member.name).lstrip(b"/")
        if member.kind == HARD_LINK:
            continue
        if (member.uid, member.gid) != (0, 0):
            found[path] = member.uid, member.gid
        else:
            found.pop(path, None)
    return found


def _is_copied_up(fd: int) -> bool:
    if fd < 0:
        return False
    try:
        os.getxattr(fd, _COPIED_UP)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return False
    return True
