"""Read single files of a squashfs image without mounting it: its config, its users.

Format 4.0, as Documentation/filesystems/squashfs.rst of the kernel describes it: a superblock; data
blocks; then tables of inodes, directories, fragments and ids, in metadata blocks of 8 KiB before
compression. An inode is named by (metadata block, offset in it).

The file is hostile. Every number in it has a ceiling and is compared with the file's size before it
is used, and every step takes from one budget, so that no loop lasts.
"""

from __future__ import annotations

import os
from struct import unpack_from

from rootless.errors import RlessError
from rootless.linux.files import read_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"hsqs"
_SUPERBLOCK = "<IIIIIHHHHHHQQQQQQQQ"
_SUPERBLOCK_SIZE = 96
_METADATA = 8192  # bytes of a metadata block
_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_NO_FRAGMENT = 0xFFFFFFFF
_RAW_METADATA = 0x8000
_RAW_DATA = 1 << 24
# Types of inodes: the basic and the extended form.
_DIRECTORY, _FILE, _LINK = (1, 8), (2, 9), (3, 10)
_MOST_BLOCKS = 20_000  # that are unpacked for all questions together: 160 MiB of metadata
_MOST_LINKS = 40  # as the kernel
_MOST_NAME = 256


class _BrokenError(Exception):
    """The image contradicts itself, or exceeds a ceiling."""


class Inode:
    """One inode.

    Attributes:
        kind: 1 to 14, as the format numbers them.
        size: bytes of the content.
        block, offset: of a directory: where its listing is.
        start: of a file: where its data begins. blocks: the sizes of its blocks, as stored.
        fragment, offset: of a file: the block that holds its end, and where in it.
        target: of a link.
    """

    __slots__ = ("block", "blocks", "fragment", "kind", "offset", "size", "start", "target")

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.size = self.block = self.offset = self.start = 0
        self.fragment = _NO_FRAGMENT
        self.blocks: tuple[int, ...] = ()
        self.target = b""


class Squashfs:
    """A squashfs image in an open file.

    Attributes:
        size: bytes of the image in the file.
    """

    def __init__(self, fd: int, what: str, offset: int = 0, length: int | None = None) -> None:
        """Read and check the superblock.

        Args:
            fd: of a regular file; stays the caller's.
            what: how errors name the file.
            offset, length: where in the file the image is; None: up to its end.

        Raises:
            RlessError: it is no squashfs image that could be read here.
        """
        self._fd = fd
        self._offset = offset
        self._what = what
        self._budget = _MOST_BLOCKS
        self._cache: dict[int, tuple[bytes, int]] = {}
        there = os.fstat(fd).st_size - offset if length is None else length
        head = read_at(fd, _SUPERBLOCK_SIZE, offset, what)
        if len(head) < _SUPERBLOCK_SIZE or head[:4] != MAGIC:
            raise RlessError(f"{what} is not a squashfs image")
        fields = unpack_from(_SUPERBLOCK, head)
        self._block_size = fields[3]
        self._fragments = fields[4]
        compression = fields[5]
        major, minor = fields[9], fields[10]
        self._root: int = fields[11]
        self.size: int = fields[12]
        self._inodes, self._directories, self._fragment_table = fields[15], fields[16], fields[17]
        if (major, minor) != (4, 0):
            raise RlessError(
                f"{what} is a squashfs image of format {major}.{minor}; 4.0 is read",
                "make it again with today's mksquashfs",
            )
        if self.size > there:
            raise RlessError(
                f"{what} is truncated: the image has {self.size} bytes, the file {there}",
                "copy it again",
            )
        if not 12 <= fields[6] <= 20 or self._block_size != 1 << fields[6]:
            raise self._broken("its block size is none")
        tables = (self._inodes, self._directories)
        if not all(_SUPERBLOCK_SIZE <= table < self.size for table in tables):
            raise self._broken("its tables lie outside")
        self.compression = _COMPRESSIONS.get(compression, "")
        if not self.compression:
            raise self._broken(f"it is compressed by method {compression}, which is none")
        if self.compression == "lzo":
            raise RlessError(
                f"{what} is compressed by lzo, which is not read here",
                "make it again: unsquashfs it, then mksquashfs with -comp zstd",
            )

    def read(self, path: str, most: int) -> bytes | None:
        """Return the content of a file; links in the image are followed in it.

        Args:
            path: absolute in the image.
            most: bytes that it may have.

        Returns:
            None: there is no regular file of that name.

        Raises:
            RlessError: the image is damaged, or the file is larger.
        """
        try:
            inode = self._find(os.fsencode(path))
            if inode is None or inode.kind not in _FILE:
                return None
            if inode.size > most:
                raise RlessError(f"{self._what}: {path} has {inode.size} bytes; at most {most}")
            return self._content(inode)
        except _BrokenError as error:
            raise self._broken(str(error)) from None

    def exists(self, path: str) -> bool:
        """Tell whether there is anything of that name.

        Raises:
            RlessError: the image is damaged.
        """
        try:
            return self._find(os.fsencode(path)) is not None
        except _BrokenError as error:
            raise self._broken(str(error)) from None

    def names(self, path: str) -> list[str]:
        """Return the names in a directory; none if it is no directory.

        Raises:
            RlessError: the image is damaged.
        """
        try:
            found = self._find(os.fsencode(path))
            if found is None or found.kind not in _DIRECTORY:
                return []
            return [os.fsdecode(name) for name, _ in self._listing(found)]
        except _BrokenError as error:
            raise self._broken(str(error)) from None

    def _broken(self, why: str) -> RlessError:
        return RlessError(f"{self._what} is damaged: {why}", "make or copy it again")

    # -- names ---------------------------------------------------------------------------------

    def _find(self, path: bytes) -> Inode | None:
        """Return what a path names, from the root of the image, with all links followed."""
        todo = [part for part in path.split(b"/") if part not in (b"", b".")][::-1]
        stack = [self._inode(self._root)]
        links = 0
        while todo:
            name = todo.pop()
            if stack[-1].kind not in _DIRECTORY:
                return None
            if name == b"..":
                if len(stack) > 1:
                    stack.pop()
                continue
            reference = self._entry(stack[-1], name)
            if reference is None:
                return None
            found = self._inode(reference)
            if found.kind not in _LINK:
                stack.append(found)
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            if found.target.startswith(b"/"):
                del stack[1:]
            todo += [part for part in found.target.split(b"/") if part not in (b"", b".")][::-1]
        return stack[-1]

    def _entry(self, directory: Inode, wanted: bytes) -> int | None:
        for name, reference in self._listing(directory):
            if name == wanted:
                return reference
        return None

    def _listing(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        """Yield (name, inode) of a directory: runs of entries with a header each."""
        left = directory.size - 3  # for "." and "..", which are not stored
        if left <= 0:
            return
        stream = _Stream(self, self._directories, directory.block, directory.offset)
        while left > 0:
            count, block, _ = unpack_from("<III", stream.take(12))
            left -= 12
            if count > 255:
                raise _BrokenError("a directory has a run of too many entries")
            for _ in range(count + 1):
                offset, _, _, size = unpack_from("<HhHH", stream.take(8))
                if size >= _MOST_NAME:
                    raise _BrokenError("a name is too long")
                yield stream.take(size + 1), block << 16 | offset
                left -= 9 + size

    # -- inodes --------------------------------------------------------------------------------

    def _inode(self, reference: int) -> Inode:
        stream = _Stream(self, self._inodes, reference >> 16, reference & 0xFFFF)
        kind = unpack_from("<H", stream.take(16))[0]
        inode = Inode(kind)
        if kind == 1:
            inode.block, _, inode.size, inode.offset, _ = unpack_from("<IIHHI", stream.take(16))
        elif kind == 8:
            _, inode.size, inode.block, _, _, inode.offset, _ = unpack_from(
                "<IIIIHHI", stream.take(24)
            )
        elif kind == 2:
            inode.start, inode.fragment, inode.offset, inode.size = unpack_from(
                "<IIII", stream.take(16)
            )
            self._read_blocks(inode, stream)
        elif kind == 9:
            inode.start, inode.size, _, _, inode.fragment, inode.offset, _ = unpack_from(
                "<QQQIIII", stream.take(40)
            )
            self._read_blocks(inode, stream)
        elif kind in _LINK:
            _, size = unpack_from("<II", stream.take(8))
            if size > 65_536:
                raise _BrokenError("the target of a link is too long")
            inode.target = stream.take(size)
        elif not 1 <= kind <= 14:
            raise _BrokenError("an inode is of no kind")
        return inode

    def _read_blocks(self, inode: Inode, stream: _Stream) -> None:
        count, rest = divmod(inode.size, self._block_size)
        if rest and inode.fragment == _NO_FRAGMENT:
            count += 1
        # What is larger is not asked for: `read` says so by its size.
        if count <= 4096:
            inode.blocks = unpack_from(f"<{count}I", stream.take(4 * count))

    # -- content -------------------------------------------------------------------------------

    def _content(self, inode: Inode) -> bytes:
        pieces = []
        at, left = inode.start, inode.size
        for stored in inode.blocks:
            whole = min(left, self._block_size)
            size = stored & (_RAW_DATA - 1)
            piece = self._data(at, stored, whole) if size else bytes(whole)
            pieces.append(piece[:whole])
            at += size
            left -= whole
        if left and inode.fragment != _NO_FRAGMENT:
            block = self._fragment(inode.fragment)
            pieces.append(block[inode.offset : inode.offset + left])
        content = b"".join(pieces)
        if len(content) != inode.size:
            raise _BrokenError("a file is shorter than it says")
        return content

    def _fragment(self, number: int) -> bytes:
        if number >= self._fragments:
            raise _BrokenError("a file ends in a fragment that is not there")
        table, index = divmod(number, 512)
        (block,) = unpack_from("<Q", self.pread(self._fragment_table + 8 * table, 8))
        entries, _ = self.metadata(block)
        if len(entries) < 16 * (index + 1):
            raise _BrokenError("its table of fragments is cut short")
        start, stored, _ = unpack_from("<QII", entries, 16 * index)
        return self._data(start, stored, self._block_size)

    def _data(self, at: int, stored: int, most: int) -> bytes:
        size = stored & (_RAW_DATA - 1)
        if size > self._block_size:
            raise _BrokenError("a block is too large")
        data = self.pread(at, size)
        return data if stored & _RAW_DATA else self._unpack(data, max(most, self._block_size))

    def metadata(self, at: int) -> tuple[bytes, int]:
        """Return a metadata block, and where the next one is."""
        found = self._cache.get(at)
        if found is None:
            (header,) = unpack_from("<H", self.pread(at, 2))
            size = header & (_RAW_METADATA - 1)
            if not 0 < size <= _METADATA:
                raise _BrokenError("a metadata block has an impossible size")
            data = self.pread(at + 2, size)
            found = (
                data if header & _RAW_METADATA else self._unpack(data, _METADATA),
                at + 2 + size,
            )
            self._cache[at] = found
        return found

    def pread(self, at: int, size: int) -> bytes:
        """Return bytes of the image."""
        self._budget -= 1
        if self._budget < 0:
            raise _BrokenError("it leads round in circles")
        if at + size > self.size:
            raise _BrokenError("it points beyond its end")
        data = read_at(self._fd, size, self._offset + at, self._what)
        if len(data) != size:
            raise _BrokenError("it is cut short")
        return data

    def _unpack(self, data: bytes, most: int) -> bytes:
        """Return the content of a compressed block of at most `most` bytes."""
        try:
            if self.compression == "gzip":
                import zlib

                return zlib.decompressobj().decompress(data, most)
            if self.compression in ("xz", "lzma"):
                import lzma

                return lzma.LZMADecompressor(memlimit=64 << 20).decompress(data, most)
            if self.compression == "lz4":
                return _unpack_lz4(data, most)
            import zstandard

            return zstandard.ZstdDecompressor(max_window_size=1 << 23).decompress(
                data, max_output_size=most
            )
        except ImportError:
            raise RlessError(
                f"{self._what} is compressed by {self.compression}, which this Python cannot read",
                "install its module",
            ) from None
        except Exception as error:  # of zlib, lzma, zstandard: each has its own
            if isinstance(error, (_BrokenError, MemoryError)):
                raise
            raise _BrokenError("a block cannot be unpacked") from None


class _Stream:
    """Bytes that run through metadata blocks."""

    __slots__ = ("_data", "_image", "_next", "_offset")

    def __init__(self, image: Squashfs, table: int, block: int, offset: int) -> None:
        self._image = image
        self._data, self._next = image.metadata(table + block)
        self._offset = offset
        if offset > len(self._data):
            raise _BrokenError("it points beyond a metadata block")

    def take(self, size: int) -> bytes:
        taken = self._data[self._offset : self._offset + size]
        self._offset += len(taken)
        while len(taken) < size:
            self._data, self._next = self._image.metadata(self._next)
            more = self._data[: size - len(taken)]
            if not more:
                raise _BrokenError("a metadata block is empty")
            self._offset = len(more)
            taken += more
        return taken


def _unpack_lz4(data: bytes, most: int) -> bytes:
    """Return an LZ4 block (lz4_Block_format.md) unpacked."""
    result = bytearray()
    at = 0
    while at < len(data):
        token = data[at]
        at += 1
        literals = token >> 4
        if literals == 15:
            while True:
                literals += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        result += data[at : at + literals]
        at += literals
        if len(result) > most:
            raise _BrokenError("a block is too large")
        if at >= len(data):
            break
        distance = data[at] | data[at + 1] << 8
        at += 2
        length = (token & 15) + 4
        if length == 19:
            while True:
                length += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        if not 0 < distance <= len(result) or len(result) + length > most:
            raise _BrokenError("a block cannot be unpacked")
        start = len(result) - distance
        for index in range(length):
            result.append(result[start + index])
    return bytes(result)
