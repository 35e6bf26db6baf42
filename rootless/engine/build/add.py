"""What ADD does besides COPY: it unpacks archives.

An archive is known by its content, as Docker does it: what it holds begins with a member of a tar,
whatever it is compressed with. Its members become members of the new layer, beneath the
destination, so the unpacker of pulled layers resolves their names and links in the image. The names
by which a layer hides files are refused (security class 59).

Source: Docker, "Dockerfile reference", ADD; moby pkg/archive, IsArchivePath.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless.engine.build import tree
from rootless.engine.build.remote.archive import Bounds
from rootless.errors import RlessError
from rootless.image.layer.decompress import BlobStream
from rootless.image.layer.tar_reader import BLOCK, CHARACTER, REGULAR, TarReader
from rootless.image.model import limits

if TYPE_CHECKING:
    from types import TracebackType

    from rootless.engine.build.new_layer import NewLayer
    from rootless.engine.build.sources import Selection, Source
    from rootless.engine.build.steps import CopyStep
    from rootless.image.layer.tar_reader import Member

def open_archive(step: CopyStep, selection: Selection, source: Source) -> Archive | None:
    """Return a source as an archive to unpack; None: it is copied.

    Raises:
        RlessError: --unpack was given, and it is none.
    """
    if not step.add or step.unpack is False or source.is_directory or source.content is not None:
        return None
    what = tree.shown(source.path)
    if source.remote is not None:
        if step.unpack is None:
            return None  # what a URL gives stays as it is
        what = tree.shown(source.name)
    for _, entry in selection.entries(source):
        fd = entry.open()
        if fd < 0:
            break
        archive = Archive(fd, what, step)
        if archive.is_tar():
            return archive
        os.close(fd)
    if step.unpack:
        raise RlessError(f"ADD --unpack: {what} is no tar archive", None, 1)
    return None


class Archive:
    """A tar, compressed or not.

    Args:
        fd: of the file, closed at the end of a `with` block. what: how messages name it.
    """

    def __init__(self, fd: int, what: str, step: CopyStep) -> None:
        self._fd = fd
        self._what = what
        self._step = step
        self._size = os.fstat(fd).st_size
        self._bounds = Bounds(self._size, what)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def _reader(self) -> TarReader:
        return TarReader(BlobStream(self._fd, 0, self._size, self._what), self._what)

    def is_tar(self) -> bool:
        """Tell whether it begins with a member."""
        try:
            return next(iter(self._reader()), None) is not None
        except RlessError:
            return False

    def unpack(self, layer: NewLayer, base: bytes) -> None:
        """Add its members to the layer, beneath the directory `base`.

        Raises:
            RlessError: it is broken, hostile, or unpacks to far too much.
        """
        reader = self._reader()
        for member in reader:
            self._bounds.check(reader, member)
            if member.kind in (CHARACTER, BLOCK):
                continue  # no layer gets a device (security class 65)
            owner, mode = bool(self._step.owner), bool(self._step.mode)
            try:
                layer.member(base, member, owner=owner, mode=mode)
            except RlessError as error:
                raise error.within(self._what) from error
            if member.kind == REGULAR:
                _contents(reader, layer, member)


def _contents(reader: TarReader, layer: NewLayer, member: Member) -> None:
    """Copy the data of a file; holes become zeros."""
    pieces = [(0, member.size)] if member.sparse is None else member.sparse
    at = 0
    for offset, length in [*pieces, (member.size, 0)]:
        _zeros(layer, offset - at)
        for size in _chunks(length):
            layer.data(reader.read(size))
        at = offset + length


def _zeros(layer: NewLayer, count: int) -> None:
    for size in _chunks(count):
        layer.data(bytes(size))


def _chunks(count: int) -> list[int]:
    whole, rest = divmod(count, limits.CHUNK)
    return [limits.CHUNK] * whole + [rest] * bool(rest)
