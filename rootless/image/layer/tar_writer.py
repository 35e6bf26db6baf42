"""Write a tar archive as a stream: the counterpart of `tar_reader`.

The same members always give the same bytes: no time of writing, no user names, no dictionary order.
A member is one ustar header if that can hold it, else it has a pax header too: for long names, ids
over 2,097,151, files over 8 GiB, fractions of seconds, extended attributes. Names are bytes and
written as they are.

Python's tarfile wants names in an encoding and keeps a list of all members.

Source: POSIX.1-2017 pax(1), "ustar Interchange Format"; star(5) for SCHILY.xattr.
"""

from __future__ import annotations

import errno
import os
import struct

from rootless.errors import RlessError, escape
from rootless.image.layer.tar_reader import BLOCK, CHARACTER, DIRECTORY, HARD_LINK, REGULAR, SYMLINK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SIZE = 512
_RECORD = 20 * _SIZE  # archives are padded to a multiple of it, as tar(1) does
_ZERO = bytes(_SIZE)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_SUM = 148  # where the checksum lies
_MOST = {8: 0o7777777, 12: 0o77777777777}  # of a field of that width, in octal digits and a NUL
_FLUSH = 256 << 10
_CHUNK = 1 << 20


class TarWriter:
    """Writes members one after the other; `end` finishes the archive.

    Args:
        output: a descriptor, or a function that takes each piece of the archive.
        record: pad the end to 10 KiB, as tar(1) does. Go's tools, and so Docker, do not.

    Attributes:
        newest: no member gets a later time (seconds since 1970); None: as it is. A process that
            writes one archive sets it for the class.
    """

    newest: int | None = None

    __slots__ = ("_buffer", "_data", "_fd", "_out", "_padding", "_record", "written")

    def __init__(self, output: int | Callable[[bytes], object], *, record: bool = False) -> None:
        self._fd = output if isinstance(output, int) else -1
        self._out = self._write_fd if isinstance(output, int) else output
        self._buffer = bytearray()
        self._record = record
        self._data = 0  # bytes of the current member that are still to come
        self._padding = 0
        self.written = 0  # bytes of the archive so far

    def add(
        self,
        name: bytes,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        kind: bytes = REGULAR,
        link: bytes = b"",
        size: int = 0,
        major: int = 0,
        minor: int = 0,
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Begin a member; a regular file's `size` bytes follow by `data` or `copy`.

        Args:
            name: relative, without a slash at its end; a directory gets one here.
            mode: permission bits, set-id and sticky ones too.
            mtime: nanoseconds since 1970.
            kind: a constant of `tar_reader`.
            link: the target of a link.
            major, minor: of a device.

        Raises:
            RlessError: the data of the member before is not complete, or a name cannot be kept.
        """
        if self._data:
            raise RlessError(f"internal error: {self._data} bytes of a member are missing")
        if not name or b"\0" in name or b"\0" in link:
            raise RlessError(f"no name for a member of an archive: {escape(repr(name))}")
        if kind == DIRECTORY and not name.endswith(b"/"):
            name += b"/"
        if kind != REGULAR:
            size = 0
        records: list[tuple[bytes, bytes]] = []
        split = _split(name)
        if split is None:
            records.append((b"path", name))
            split = (b"", name[:100])
        if len(link) > 100:
            records.append((b"linkpath", link))
        if self.newest is not None:
            mtime = min(mtime, self.newest * 1_000_000_000)
        seconds, rest = divmod(mtime, 1_000_000_000)
        if rest or not 0 <= seconds <= _MOST[12]:
            records.append((b"mtime", _time(mtime)))
        fields = []
        for key, value, width in ((b"uid", uid, 8), (b"gid", gid, 8), (b"size", size, 12)):
            fits = value <= _MOST[width]
            if not fits:
                records.append((key, str(value).encode()))
            fields.append(_octal(value if fits else 0, width))
        for key in sorted(xattrs or ()):
            records.append((b"SCHILY.xattr." + key, (xattrs or {})[key]))
        if records:
            self._pax(records, split[1])
        if kind not in (CHARACTER, BLOCK):
            major = minor = 0
        self._header(
            split[1],
            mode & 0o7777,
            fields,
            seconds if 0 <= seconds <= _MOST[12] else 0,
            kind,
            link[:100] if kind in (HARD_LINK, SYMLINK) else b"",
            split[0],
            (major, minor),
        )
        self._data = size
        self._padding = -size % _SIZE

    def data(self, chunk: bytes | memoryview) -> None:
        """Write some of the current member's contents.

        Raises:
            RlessError: it is more than `add` was told.
        """
        if len(chunk) > self._data:
            raise RlessError("internal error: more data than its header says")
        self._data -= len(chunk)
        self._put(chunk)
        self._pad()

    def copy(self, fd: int) -> int:
        """Write all that is left of the current member from a file; return what was missing.

        A file that is cut short meanwhile is filled up with zeros: the header has been written.
        """
        try:
            if self._fd >= 0 and self._data > _FLUSH:
                self._send(fd)
            while self._data:
                chunk = os.read(fd, min(_CHUNK, self._data))
                if not chunk:
                    break
                self.data(chunk)
        finally:
            missing = self._data
        while self._data:
            self.data(bytes(min(_CHUNK, self._data)))
        return missing

    def elsewhere(self) -> None:
        """Take the current member's contents as written: who wants them has the file.

        All before them is written at once, and their padding comes next.
        """
        self._flush()
        self.written += self._data
        self._data = 0
        self._pad()

    def end(self) -> None:
        """Write the end of the archive and all that is still buffered."""
        if self._data:
            raise RlessError(f"internal error: {self._data} bytes of a member are missing")
        self._put(_ZERO + _ZERO)
        if self._record:
            self._put(bytes(-(self.written + len(self._buffer)) % _RECORD))
        self._flush()

    # -- pieces ----------------------------------------------------------------------------------

    def _put(self, piece: bytes | memoryview) -> None:
        if len(piece) >= _FLUSH:
            self._flush()
            self._emit(bytes(piece))
            return
        self._buffer += piece
        if len(self._buffer) >= _FLUSH:
            self._flush()

    def _pad(self) -> None:
        if not self._data and self._padding:
            self._put(_ZERO[: self._padding])
            self._padding = 0

    def _flush(self) -> None:
        if self._buffer:
            piece = bytes(self._buffer)
            self._buffer.clear()
            self._emit(piece)

    def _emit(self, piece: bytes) -> None:
        self.written += len(piece)
        self._out(piece)

    def _write_fd(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]

    def _send(self, fd: int) -> None:
        """Let the kernel copy a large file, without a look at it here."""
        self._flush()
        while self._data:
            try:
                sent = os.sendfile(self._fd, fd, None, min(self._data, 1 << 30))
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):
                    return  # not between these two kinds of files
                raise
            if not sent:
                return
            self._data -= sent
            self.written += sent
        self._pad()

    def _pax(self, records: list[tuple[bytes, bytes]], name: bytes) -> None:
        text = b"".join(_record(key, value) for key, value in records)
        base = name.rstrip(b"/").rpartition(b"/")[2][:80]
        sizes = [_octal(0, 8), _octal(0, 8), _octal(len(text), 12)]
        self._header(b"PaxHeaders.0/" + base, 0o644, sizes, 0, b"x", b"", b"", (0, 0))
        self._put(text)
        self._put(_ZERO[: -len(text) % _SIZE])

    def _header(
        self,
        name: bytes,
        mode: int,
        numbers: list[bytes],
        seconds: int,
        kind: bytes,
        link: bytes,
        prefix: bytes,
        device: tuple[int, int],
    ) -> None:
        uid, gid, size = numbers
        block = bytearray(
            _HEADER.pack(
                name,
                _octal(mode, 8),
                uid,
                gid,
                size,
                _octal(seconds, 12),
                b"        ",
                kind,
                link,
                b"ustar\x0000",
                b"",
                b"",
                _octal(device[0], 8),
                _octal(device[1], 8),
                prefix,
            )
        )
        block[_SUM : _SUM + 8] = b"%06o\0 " % sum(block)
        self._put(bytes(block))


def _octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return (prefix, name) for the header; None: it does not fit."""
    if len(name) <= 100:
        return b"", name
    # A slash between the two, and something after it.
    slash = name.rfind(b"/", 0, min(156, len(name) - 1))
    if slash <= 0 or len(name) - slash - 1 > 100:
        return None
    return name[:slash], name[slash + 1 :]


def _time(nanoseconds: int) -> bytes:
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    text = f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"
    return text.encode()


def _record(key: bytes, value: bytes) -> bytes:
    r"""Return "LENGTH KEY=VALUE\n"; the length counts its own digits."""
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    if len(str(length)) + size != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
