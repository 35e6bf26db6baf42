"""Write the exact tar of an unpacked layer again, from its files and a split.

A layer is kept unpacked only, and no tool writes the same tar of the same files twice. So while a
layer is unpacked, the split records every byte of its tar that is not a file's content (headers,
padding, what follows the end), with a reference in place of each content: a path beneath the
layer's directory. What the tree cannot give back is recorded as it is: the data of whiteouts and
skipped members, and files that the same layer replaces later. The split and the files are the tar,
byte for byte. The stream that reads them proves it: it hashes its output, and ends in an error if
that is not the diff_id of the image's config. So a store that was tampered with gives no image.

    splits/<chain id>   for all maps: owners and modes are in the recorded headers

A split is a file of magic, size of the tar, and a zstd stream of records: `_RECORD`, the bytes as
they are, the path whose content follows them.

Source: github.com/vbatts/tar-split has the idea; the format is our own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits
from rootless.image.store import records
from rootless.image.store.ownership import everything
from rootless.image.store.store import layer_dir, split_path
from rootless.linux.idmap import Call
from rootless.linux.openat2 import BENEATH, openat2

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from rootless.image.store.store import Image, Store

_MAGIC = b"rless-split-1\n\0\0"
_HEADER = struct.Struct("<16sQ")
_RECORD = struct.Struct("<IHQQ")  # length of the bytes, of the path; offset and size of content
_FLUSH = 1 << 17
_CHUNK = 1 << 18
_PIPE = 1 << 20
# Larger ones of many sizes leave holes in malloc's heap: 11 % of a layer was measured.
_PIECE = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN = "remove the image and pull it again"


def has_split(root: str, chain: str) -> bool:
    """Tell whether a layer's tar can be given back; not so if an older version unpacked it."""
    return os.path.exists(split_path(root, chain))


# -- while a layer is unpacked ----------------------------------------------------------------


class SplitWriter:
    """Records the tar of one layer while it is unpacked.

    Args:
        scratch_fd, name: a directory, and a name that is free in it.
    """

    def __init__(self, scratch_fd: int, name: str) -> None:
        self._scratch_fd = scratch_fd
        self._name = name
        self._file = _SplitFile(scratch_fd, name)
        self._kept_fd = -1
        # Path -> (number of the record that came next, name in the directory of the kept).
        self._kept: dict[bytes, list[tuple[int, str]]] = {}
        self._count = 0
        self._replaced = 0
        self.size = 0

    def add(self, raw: bytes, path: bytes = b"", offset: int = 0, size: int = 0) -> None:
        """Record bytes as they are, and the content of a file of this layer that follows them."""
        self._file.add(raw, path, offset, size)
        self._count += 1
        self.size += len(raw) + size

    def keep(self, dir_fd: int, name: bytes, path: bytes) -> None:
        """Take a file or a tree out of the layer, which replaces it: its contents are recorded.

        Args:
            path: its path without links.
        """
        if self._kept_fd < 0:
            kept = f"{self._name}.kept"
            os.mkdir(kept, 0o700, dir_fd=self._scratch_fd)
            self._kept_fd = os.open(kept, _DIRECTORY, dir_fd=self._scratch_fd)
        if self._replaced >= limits.REPLACED:
            raise RlessError(f"it replaces more than {limits.REPLACED} of its own files")
        kept_as = str(self._replaced)
        self._replaced += 1
        os.rename(name, kept_as, src_dir_fd=dir_fd, dst_dir_fd=self._kept_fd)
        self._kept.setdefault(path, []).append((self._count, kept_as))

    def finish(self) -> None:
        """Complete the file."""
        self._file.close(self.size)
        if self._kept:
            self._inline()

    def _inline(self) -> None:
        """Write the record anew, with the contents that are no longer at their path."""
        fd = os.open(self._name, os.O_RDONLY, dir_fd=self._scratch_fd)
        os.unlink(self._name, dir_fd=self._scratch_fd)
        made = _SplitFile(self._scratch_fd, self._name)
        try:
            for number, (raw, path, offset, size) in enumerate(_records(fd)):
                kept = self._find(path, number) if path else None
                if kept is None:
                    made.add(raw, path, offset, size)
                    continue
                made.add(raw)
                for chunk in _content(openat2(self._kept_fd, kept, _READ), offset, size, kept):
                    made.add(chunk)
            made.close(self.size)
        finally:
            os.close(fd)

    def _find(self, path: bytes, number: int) -> bytes | None:
        """Return where the content of a record went, if its path or a parent was replaced."""
        best: tuple[int, bytes] | None = None
        above, rest = path, b""
        while above:
            for before, name in self._kept.get(above, ()):
                if before > number and (best is None or before < best[0]):
                    best = before, name.encode() + rest
                    break
            above, _, last = above.rpartition(b"/")
            rest = b"/" + last + rest
        return None if best is None else best[1]

    def close(self) -> None:
        """Give the descriptors back."""
        self._file.abandon()
        if self._kept_fd >= 0:
            os.close(self._kept_fd)
            self._kept_fd = -1


class _SplitFile:
    """Write records, compressed."""

    def __init__(self, dir_fd: int, name: str) -> None:
        import zstandard

        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        self._zstd = zstandard.ZstdCompressor(level=1)
        self._stream: Any = None  # begun when there is more than one piece
        self._parts: list[bytes] = [b""]
        self._pending = 0
        self._write(_HEADER.pack(_MAGIC, 0))

    def add(self, raw: bytes, path: bytes = b"", offset: int = 0, size: int = 0) -> None:
        self._parts += (_RECORD.pack(len(raw), len(path), offset, size), raw, path)
        self._pending += len(raw) + 64
        if self._pending > _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._stream is None:
            self._stream = self._zstd.compressobj()
        self._write(self._stream.compress(b"".join(self._parts)))
        self._parts = []
        self._pending = 0

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self, size: int) -> None:
        if self._stream is None:
            # Of a known size: a small record takes small tables, and not a megabyte of them.
            self._write(self._zstd.compress(b"".join(self._parts)))
        else:
            self._flush()
            self._write(self._stream.flush())
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, size), 0)
        self.abandon()

    def abandon(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# -- reading it -------------------------------------------------------------------------------


def _records(fd: int) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Read the records of a split, whose header was read."""
    import zstandard

    os.lseek(fd, _HEADER.size, os.SEEK_SET)
    try:
        with (
            open(fd, "rb", closefd=False) as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
        ):
            while head := _exactly(stream.read, _RECORD.size, at_end=True):
                length, path_length, offset, size = _RECORD.unpack(head)
                if length > limits.SPLIT_RECORD_BYTES:
                    raise RlessError("its record is damaged")
                text = _exactly(stream.read, length + path_length)
                yield text[:length], text[length:], offset, size
    except zstandard.ZstdError as error:
        raise RlessError("its record is damaged") from error


def headers(split: str) -> Iterator[bytes]:
    """Yield the tar of a layer in pieces, with zeros in place of the contents of files.

    Raises:
        RlessError: the record is damaged.
    """
    zeros = bytes(_CHUNK)
    fd = os.open(split, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for raw, _, _, size in _records(fd):
            yield raw
            for _ in range(size // _CHUNK):
                yield zeros
            yield zeros[: size % _CHUNK]
    finally:
        os.close(fd)


def _exactly(read: object, size: int, *, at_end: bool = False) -> bytes:
    data = b""
    while len(data) < size:
        more: bytes = read(size - len(data))  # type: ignore[operator]
        if not more:
            if at_end and not data:
                break
            raise RlessError("its record is damaged")
        data += more
    return data


def _content(fd: int, offset: int, size: int, path: bytes) -> Iterator[bytes]:
    """Read a piece of a file and close it; it must be there in full."""
    try:
        while size:
            chunk = os.pread(fd, min(size, _CHUNK), offset)
            if not chunk:
                raise RlessError(f"{escape(os.fsdecode(path))[:300]} is shorter than it was")
            yield chunk
            offset += len(chunk)
            size -= len(chunk)
    finally:
        os.close(fd)


class LayerStream:
    """The tar of one layer, as a file that can be read once, without seeking.

    The bytes come from a child that is root of a user namespace with all ids of the caller, so
    that files of foreign owners and modes can be read.

    Attributes:
        size: bytes of the whole tar. diff_id: its digest, proven when the end is read.
    """

    def __init__(self, directory: str, split: str, size: int, diff_id: str) -> None:
        self.size = size
        self.diff_id = diff_id
        self._left = size
        self._hash = hashlib.sha256()
        self._reader, writer = os.pipe()
        with _quietly():
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            self._call = Call(everything(), _send, directory, split, self._reader, writer)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes (-1: all), b"" at the end.

        Raises:
            RlessError: the store no longer has the layer as it came.
        """
        if size < 0:
            return b"".join(self)
        data = os.read(self._reader, min(size, _PIECE)) if size else b""
        self._hash.update(data)
        self._left -= len(data)
        if size and (self._left < 0 or not data):
            self._verify()
        return data

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(_PIECE):
            yield chunk

    def _verify(self) -> None:
        what = f"layer {self.diff_id[7:19]} of the store"
        try:
            if self._left >= 0:
                self._call.result()
        except RlessError as error:
            raise RlessError(f"{what} cannot be restored: {error.message}", _AGAIN) from error
        if self._left or f"sha256:{self._hash.hexdigest()}" != self.diff_id:
            raise RlessError(f"{what} was changed: it no longer has its digest", _AGAIN)

    def close(self) -> None:
        """End the child too, if the end was not reached."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
            self._call.close()

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _quietly:  # noqa: N801
    """Goes on without a larger pipe if the user has used up the allowed ones."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def _send(directory: str, split: str, reader: int, writer: int) -> None:
    os.close(reader)
    write_tar(directory, split, writer)
    os.close(writer)


def write_tar(directory: str, split: str, writer: int) -> None:
    """Write a layer's tar to a descriptor, as `read_tar` gives it."""
    read_tar(directory, split, lambda data: _write_all(writer, data))


def read_tar(directory: str, split: str, take: Callable[[bytes], object]) -> None:
    """Give away a layer's tar; whether it is the one of its diff_id is not checked.

    Args:
        directory: of the layer. split: the record of its tar.
        take: gets the bytes in pieces.

    Raises:
        RlessError: a file of it is gone.

    Where it runs: as root of a user namespace with all ids of the layer.
    """
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # may be a link
    split_fd = os.open(split, os.O_RDONLY | os.O_CLOEXEC)
    parts: list[bytes] = []
    pending = 0
    parent_path: bytes | None = None
    parent_fd = root_fd
    for raw, path, offset, size in _records(split_fd):
        parts.append(raw)
        pending += len(raw)
        if path:
            parent, _, name = path.rpartition(b"/")
            try:
                if parent != parent_path:
                    if parent_fd != root_fd:
                        os.close(parent_fd)
                    parent_fd = root_fd
                    if parent:
                        parent_fd = openat2(root_fd, parent, _DIRECTORY, resolve=BENEATH)
                    parent_path = parent
                fd = os.open(name, _READ, dir_fd=parent_fd)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise RlessError("it is no file any more")
            except (OSError, RlessError) as error:
                why = error.strerror if isinstance(error, OSError) else error.message
                raise RlessError(f"{escape(os.fsdecode(path))[:300]}: {why}") from error
            for chunk in _content(fd, offset, size, path):
                parts.append(chunk)
                pending += len(chunk)
                if pending > _FLUSH:
                    take(b"".join(parts))
                    parts, pending = [], 0
        if pending > _FLUSH:
            take(b"".join(parts))
            parts, pending = [], 0
    take(b"".join(parts))
    if parent_fd != root_fd:
        os.close(parent_fd)
    os.close(root_fd)
    os.close(split_fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def diff_ids(image: Image) -> list[str]:
    """Return the digests of the tars of an image's layers, from its config.

    Raises:
        RlessError: the store has lost the config.
    """
    data = records.get_blob(image.root, image.id)
    if data is None:
        raise RlessError(f"the config of image {image.id[7:19]} is gone", _AGAIN)
    config = manifest.parse_config(data, f"config of {image.id[7:19]}", len(image.chain))
    return list(config["rootfs"]["diff_ids"])


def open_layer(store: Store, image: Image, index: int) -> LayerStream:
    """Return the tar of one layer of an image, byte for byte as its diff_id says.

    Args:
        index: 0 is the bottom one.

    Raises:
        RlessError: the layer is gone, or was unpacked by a version that kept no record.

    Where it runs: on the host; the caller must have no second thread at this moment (a process
    is forked into a new user namespace); the stream itself may be read by any thread.
    """
    return open_tar(image.root, image.chain[index], diff_ids(image)[index], image.keys)


def open_tar(root: str, chain: str, diff_id: str, keys: Collection[str] = ()) -> LayerStream:
    """Return the tar of a layer of a store, as `open_layer` does.

    Args:
        keys: of maps that it is there for; (): of any.
    """
    try:
        with open(split_path(root, chain), "rb") as file:
            magic, size = _HEADER.unpack(file.read(_HEADER.size))
    except FileNotFoundError:
        raise RlessError(
            f"layer {diff_id[7:19]} was unpacked by an older rless, which kept no record of its "
            "tar archive",
            "pull the image again",
        ) from None
    except (struct.error, OSError):
        magic = b""
        size = 0
    if magic != _MAGIC:
        raise RlessError(f"the record of layer {diff_id[7:19]} is damaged", _AGAIN)
    for key in keys or os.listdir(f"{root}/layers"):  # none: of an additional store
        directory = layer_dir(root, key, chain)
        if os.path.isdir(directory):
            return LayerStream(directory, split_path(root, chain), size, diff_id)
    raise RlessError(f"layer {diff_id[7:19]} is gone", _AGAIN)


def collect(root: str, needed: set[str]) -> None:
    """Delete the records of layers that no image has.

    Args:
        needed: names of layer directories.
    """
    with _quietly():
        for name in os.listdir(f"{root}/splits"):
            if name not in needed:
                with _quietly():
                    os.unlink(f"{root}/splits/{name}")
