"""Archives of others: how large they may become, and a tar that becomes a directory.

A context that comes as a tar is unpacked by the unpacker of layers, with all that it refuses
(security classes 1 to 11). All files become the caller's: what a COPY takes from a context is
root's in any case. A member that would hide others in a layer (`.wh.`) is refused (class 59).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless.engine.idmap_policy import build_single
from rootless.errors import RlessError, escape
from rootless.image.layer.decompress import BlobStream, compression_of
from rootless.image.layer.layers import Caller
from rootless.image.layer.lookup import WHITEOUT_PREFIX, LayerLookup
from rootless.image.layer.tar_reader import TarReader, check_start
from rootless.image.layer.tarsplit import SplitWriter
from rootless.image.layer.unpack import Unpacker, normalise
from rootless.image.model import limits
from rootless.linux.idmap import call_in_userns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.image.layer.tar_reader import Member
    from rootless.linux.idmap import IdMap

# A bomb: more than this, and than any honest archive of its size has.
BOMB_BYTES = 4 * limits.GIB
BOMB_RATIO = 2000  # bytes for each byte of the archive
BOMB_MEMBERS = 1_000_000
BOMB_BYTES_PER_MEMBER = 32  # of the archive

_SPLIT = "split"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Bounds:
    """What an archive may become.

    Args:
        size: of the archive as it is, compressed. what: how messages name it.
    """

    def __init__(self, size: int, what: str) -> None:
        self._bytes = max(BOMB_BYTES, BOMB_RATIO * size)
        self._members = max(BOMB_MEMBERS, size // BOMB_BYTES_PER_MEMBER)
        self._total = 0
        self._what = what

    def check(self, reader: TarReader, member: Member) -> None:
        """Count a member, and all that was read up to it.

        Raises:
            RlessError: it is far more than it should be.
        """
        self._total += member.size  # with its holes: they may become zeros
        self._members -= 1
        if max(self._total, reader.offset) > self._bytes or self._members < 0:
            raise RlessError(f"{self._what} unpacks to far more than it should", None, 1)


def begins_as_archive(start: bytes) -> bool:
    """Tell whether a file is an archive, compressed or not, by its first BLOCK_BYTES."""
    if compression_of(start) != "none":
        return True
    try:
        return check_start(start, "archive")
    except RlessError:
        return False


def unpack(fd: int, what: str, scratch: str) -> str:
    """Unpack a tar into a new directory below an empty one; return its path.

    Args:
        fd: of the archive, which can be read at any place. what: how messages name it.

    Raises:
        RlessError: it is broken, hostile, or unpacks to far too much.

    Where it runs: on the host; the caller must have no second thread.
    """
    idmap = build_single(0, 0)
    os.mkdir(f"{scratch}/root", 0o755)
    try:
        call_in_userns(idmap, _unpack, fd, what, scratch, idmap, Caller(idmap))
    except RlessError as error:
        error.exit_code = 1
        raise
    return f"{scratch}/root"


def _unpack(fd: int, what: str, scratch: str, idmap: IdMap, caller: Caller) -> None:
    caller.bind_child()
    scratch_fd = os.open(scratch, _DIRECTORY)
    root_fd = os.open("root", _DIRECTORY, dir_fd=scratch_fd)
    split = SplitWriter(scratch_fd, _SPLIT)  # takes away what a later member replaces
    view = LayerLookup(root_fd, list)
    size = os.fstat(fd).st_size
    unpacker = Unpacker(root_fd, view, idmap, split, overlay_whiteouts=True)
    try:
        unpacker.apply(_ContextReader(fd, size, what))
    except OSError as error:
        raise RlessError(f"{what}: {error.strerror}", limits.hint(error.errno)) from error
    except RlessError as error:
        raise error if error.message.startswith(what) else error.within(what)  # noqa: B904


class _ContextReader(TarReader):
    """The members of a context: none of them is a whiteout, and they have bounds."""

    def __init__(self, fd: int, size: int, what: str) -> None:
        super().__init__(BlobStream(fd, 0, size, what), what)
        self._bounds = Bounds(size, what)

    def __iter__(self) -> Iterator[Member]:
        for member in super().__iter__():
            self._bounds.check(self, member)
            path = normalise(member.name)
            if b"/" + WHITEOUT_PREFIX in b"/" + path:
                raise RlessError(f"{escape(os.fsdecode(path))}: no image can have a file of this name")
            if path:  # its root stays ours
                yield member
