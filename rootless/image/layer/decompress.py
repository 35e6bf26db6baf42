"""Turn a stored layer into the bytes of its tar: decompressed, hashed on both sides, bounded.

The first bytes tell the compression, as in Docker. Media types may be wrong; that changes nothing,
because the diff_id of the output is verified. Output arrives in chunks of at most `limits.CHUNK`,
so a bomb costs time but no memory.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import zlib
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.linux.files import read_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rootless.image.layer.parallel_unpack import Arrival

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte 0x50 … 0x5f
_XZ = b"\xfd7zXZ\0"
_BZIP2 = b"BZh"
MAGIC_BYTES = 6
_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MiB to decompress
_READ = 64 << 10
_AHEAD = 8  # chunks


def inflater() -> Any:
    """Return the module that inflates: isal's if it is installed, half the time of zlib's.

    What comes out is verified in any case (docs/decisions/0008-layers.md).
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def compression_of(start: bytes) -> str:
    """Return the compression of what starts so: "gzip", "zstd", "xz", "bzip2" or "none".

    Args:
        start: MAGIC_BYTES of it at least, if there are so many.
    """
    if start.startswith(_GZIP):
        return "gzip"
    if start.startswith(_ZSTD) or (start[1:4] == _ZSTD_SKIPPABLE and 0x50 <= start[0] <= 0x5F):
        return "zstd"
    if start.startswith(_XZ):
        return "xz"
    return "bzip2" if start.startswith(_BZIP2) else "none"


class BlobStream:
    """The tar of one layer that is stored in a file, or in a part of one.

    Args:
        fd: the file; read by position, so many streams can share it.
        offset, size: where the blob is.
        what: how errors name the layer.
        arrival: tells of more where the file is still growing; then reading waits.

    Attributes:
        compression: as `compression_of` says.
    """

    def __init__(
        self,
        fd: int,
        offset: int,
        size: int,
        what: str = "layer",
        arrival: Arrival | None = None,
    ) -> None:
        self._fd = fd
        self._position = offset
        self._start = offset
        self._end = offset + size
        self._what = what
        self._arrival = arrival
        self._blob_hash = hashlib.sha256()
        self._tar_hash = hashlib.sha256()
        self.compression = compression_of(self._first(min(size, MAGIC_BYTES)))
        if self.compression == "none":
            self._tar_hash = self._blob_hash  # the same bytes: hashed once, by read()

    def _first(self, size: int) -> bytes:
        """Return the first bytes of the blob without taking them."""
        while len(start := read_at(self._fd, size, self._start, self._what)) < size:
            if self._arrival is None or not self._arrival.wait():
                break
        return start

    def __iter__(self) -> Iterator[bytes]:
        if self.compression == "none":
            yield from self._raw()
            return
        update = self._tar_hash.update
        decode = {"gzip": self._gzip, "zstd": self._zstd, "xz": self._xz, "bzip2": self._bzip2}
        for chunk in decode[self.compression]():
            update(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        """Return the digest of the blob as far as it was read."""
        return "sha256:" + self._blob_hash.hexdigest()

    @property
    def diff_id(self) -> str:
        """Return the digest of the tar as far as it was read."""
        return "sha256:" + self._tar_hash.hexdigest()

    @property
    def taken(self) -> int:
        """Return how many bytes of the blob were read."""
        return self._position - self._start

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the blob as it is stored, b"" at its end."""
        wanted = min(size, self._end - self._position)
        data = read_at(self._fd, wanted, self._position, self._what)
        while not data and wanted:
            if self._arrival is None or not self._arrival.wait():
                raise RlessError(f"{self._what} is shorter than it should be")
            data = read_at(self._fd, wanted, self._position, self._what)
        self._position += len(data)
        self._blob_hash.update(data)
        return data

    def ahead(self) -> Iterator[bytes]:
        """Iterate with a thread that reads, hashes and decompresses ahead.

        zlib, zstandard and hashlib release the interpreter's lock, so this uses a second core.
        Only for a process that makes no user namespace later.
        """
        chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)

        def fill() -> None:
            try:
                for chunk in self:
                    chunks.put(chunk)
                chunks.put(None)
            except BaseException as error:
                chunks.put(error)

        # A daemon: where the reader gives up, the thread waits for ever in put() and must not
        # hold up the end of the process.
        threading.Thread(target=fill, daemon=True).start()
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def _raw(self) -> Iterator[bytes]:
        while chunk := self.read(limits.CHUNK):
            yield chunk

    def _gzip(self) -> Iterator[bytes]:
        """Decompress the members of a gzip file one after the other; zeros may follow."""
        library = inflater()
        decoder = library.decompressobj(31)
        limit = limits.CHUNK
        while data := self.read(_READ):
            while data or not decoder.eof:
                if decoder.eof:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = library.decompressobj(31)
                try:
                    chunk = decoder.decompress(data, limit)
                except library.error as error:
                    raise RlessError(f"{self._what}: broken gzip data: {error}") from None
                if chunk:
                    yield chunk
                data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
                if not data and len(chunk) < limit:
                    break
        if not decoder.eof:
            raise RlessError(f"{self._what}: broken gzip data: it ends too early")

    def _xz(self) -> Iterator[bytes]:
        try:
            import lzma
        except ImportError:
            raise self._unsupported("xz") from None
        make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _XZ_MEMORY)
        yield from self._standard("xz", make, lzma.LZMAError)

    def _bzip2(self) -> Iterator[bytes]:
        try:
            import bz2
        except ImportError:
            raise self._unsupported("bzip2") from None
        yield from self._standard("bzip2", bz2.BZ2Decompressor, OSError)

    def _unsupported(self, what: str) -> RlessError:
        return RlessError(
            f"{self._what} is compressed with {what}, which this Python was built without",
            "decompress it first",
        )

    def _standard(
        self, name: str, make: Callable[[], Any], failure: type[Exception]
    ) -> Iterator[bytes]:
        """Decompress streams that follow one another, by a module of the standard library."""
        decoder = make()
        while data := self.read(_READ):
            while data or not (decoder.eof or decoder.needs_input):
                if decoder.eof:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = make()
                try:
                    chunk = decoder.decompress(data, limits.CHUNK)
                except (failure, EOFError) as error:
                    raise RlessError(f"{self._what}: broken {name} data: {error}") from None
                if chunk:
                    yield chunk
                data = decoder.unused_data if decoder.eof else b""
        if not decoder.eof:
            raise RlessError(f"{self._what}: broken {name} data: it ends too early")

    def _zstd(self) -> Iterator[bytes]:
        try:
            import zstandard
        except ImportError:
            raise RlessError(
                f"{self._what} is compressed with zstd", "install the Python package zstandard"
            ) from None
        decoder = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW)
        try:
            source = cast("IO[bytes]", self)  # its read() is all that is used
            with decoder.stream_reader(
                source, read_size=_READ, read_across_frames=True, closefd=False
            ) as stream:
                while chunk := stream.read(limits.CHUNK):
                    yield chunk
        except zstandard.ZstdError as error:
            raise RlessError(f"{self._what}: broken zstd data: {error}") from None
        while self.read(_READ):
            pass  # whatever the decoder left is part of the digest
