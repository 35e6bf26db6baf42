"""Read a tar archive as a stream of members: the one parser for digest and unpack.

A layer's digest and its files must come from the same reading of the same bytes, or two tools see
two different layers (CVE-2025-62518). So the reader is strict. A pax size takes precedence over the
header's. A bad checksum, a short read, an unknown member type, or anything but zeros after the end
is an error. Every length is checked against `limits` before it costs memory or disk.

Formats: v7, ustar, star, GNU (long names, base-256 numbers, old sparse) and pax (local and global
headers, sparse 0.0, 0.1 and 1.0, SCHILY.xattr). Python's tarfile takes three times as long and is
less strict; it is the oracle of the property tests.

Source: POSIX.1-2017 pax(1); GNU tar manual, appendix D; star(5).
"""

from __future__ import annotations

import os
import struct
import zlib

from rootless.errors import RlessError, escape
from rootless.image.model import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rootless.image.layer.tarsplit import SplitWriter

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK = b"4"
DIRECTORY = b"5"
FIFO = b"6"

_SIZE = BLOCK_BYTES = 512
_ZERO = bytes(_SIZE)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_HEADER_ONLY = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO))
_XATTR = b"SCHILY.xattr."
# A global header with one of these would change members unseen; no tool writes that.
_NEVER_GLOBAL = (b"path", b"linkpath", b"size", b"GNU.sparse.", _XATTR)


class TarError(RlessError):
    """The archive is broken or hostile."""


class Member:
    """What an archive says about one file.

    Attributes:
        name, link: as in the archive, unchecked bytes without NUL.
        kind: one of the constants of this module.
        size: apparent size in bytes, holes included; 0 for all but regular files.
        mtime: nanoseconds since 1970.
        xattrs: name to value, None if there are none.
        sparse: (offset, length) of the data in order, None if the file has no holes.
    """

    __slots__ = ("gid", "kind", "link", "mode", "mtime", "name", "size", "sparse", "uid", "xattrs")

    def __init__(self, name: bytes, kind: bytes, size: int) -> None:
        self.name = name
        self.kind = kind
        self.size = size
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.mtime = 0
        self.link = b""
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


class TarReader:
    """Iterate over the members of an archive that arrives in chunks.

    While a regular member is the current one its data can be taken with `copy_to` or `read`;
    what is not taken is skipped. The iteration reads to the end of the last chunk, so the
    source has then seen every byte.

    Args:
        chunks: the archive; chunks of any size, read ahead by none.
        what: how errors name the archive.
        skip: jumps over that many bytes of the source, False if there are fewer; None where
            all must be read, because it is hashed.
        split: gets every byte that `copy_to` does not write into a file of the layer.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        what: str = "layer",
        skip: Callable[[int], bool] | None = None,
        split: SplitWriter | None = None,
    ) -> None:
        self._next_chunk: Callable[[], bytes] = _reader(chunks)
        self._jump = skip
        self._split = split
        self._recorded = 0  # how much of the current chunk the split has
        self._what = what
        self._buffer = b""
        self._position = 0
        self._passed = 0  # bytes of the chunks before the current one
        self._data = 0  # bytes of the current member not yet taken
        self._padding = 0
        self._global: dict[bytes, bytes] = {}
        self.members = 0

    # -- the stream ------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        """Return how many bytes of the archive have been read."""
        return self._passed + self._position

    def _fail(self, why: str) -> TarError:
        return TarError(f"{self._what}: broken tar archive at byte {self.offset}: {why}")

    def _more(self) -> bool:
        """Take the next chunk; the current one is used up."""
        chunk = self._next_chunk()
        self._passed += len(self._buffer)
        if self._split is not None:
            if self._recorded < len(self._buffer):
                self._split.add(self._buffer[self._recorded :])
            self._recorded = 0
        self._buffer = chunk
        self._position = 0
        return bool(chunk)

    def _take(self, size: int) -> bytes:
        """Return exactly `size` bytes; callers have checked that it is small."""
        start = self._position
        end = start + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        parts = []
        while size:
            part = self._buffer[self._position : self._position + size]
            self._position += len(part)
            size -= len(part)
            parts.append(part)
            if size and not self._more():
                raise self._fail("it ends in the middle of a member")
        return b"".join(parts)

    def _skip(self, size: int, spare: int = 0) -> None:
        """Skip bytes, of which the last `spare` may be missing at the end of a stream."""
        while True:
            here = len(self._buffer) - self._position
            if size <= here:
                self._position += size
                return
            self._position += here
            size -= here
            if self._jump is not None:
                self._passed += len(self._buffer) + size
                self._buffer = b""
                self._position = 0
                if not self._jump(size):
                    raise self._fail("it ends in the middle of a member")
                return
            if not self._more():
                if size <= spare:
                    return
                raise self._fail("it ends in the middle of a member")

    # -- the data of the current member ------------------------------------------------------

    def _check_wanted(self, size: int) -> None:
        if size > self._data:
            raise self._fail("more data was asked for than the member has")
        self._data -= size

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes of the current member's data."""
        self._check_wanted(size)
        return self._take(size)

    def copy_to(self, fd: int, size: int, path: bytes = b"", offset: int = 0) -> None:
        """Write the next `size` bytes of the current member's data to `fd`.

        Args:
            path, offset: where the layer has them from then on, for the split.
        """
        self._check_wanted(size)
        if self._split is not None:
            raw = self._buffer[self._recorded : self._position]
            self._split.add(raw, path, offset, size)
        while size:
            start = self._position
            end = min(start + size, len(self._buffer))
            if end == start:
                self._recorded = self._position
                if not self._more():
                    raise self._fail("it ends in the middle of a member")
                continue
            if end - start <= 4096:
                written = os.write(fd, self._buffer[start:end])
            else:
                with memoryview(self._buffer) as view:
                    written = os.write(fd, view[start:end])
            self._position += written
            self._recorded = self._position
            size -= written

    # -- members -----------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member
        self._check_tail()

    def _block(self) -> bytes:
        """Return the next header block, b"" at a clean end of the stream."""
        if self._data or self._padding:
            # The docker command ends a context without padding, and without blocks of zeros.
            self._skip(self._data + self._padding, spare=self._padding)
            self._data = self._padding = 0
        if self._position == len(self._buffer) and not self._more():
            return b""
        return self._take(_SIZE)

    def _next(self) -> Member | None:
        pax: list[tuple[bytes, bytes]] = []
        has_pax = False
        long_name = long_link = b""
        while True:
            block = self._block()
            if not block:
                if has_pax or long_name or long_link:
                    raise self._fail("it ends after an extended header")
                return None
            if block == _ZERO:
                # Two zero blocks end an archive; one at the very end is tolerated by all.
                second = self._block()
                if second and second != _ZERO:
                    raise self._fail("a header after a block of zeros")
                if has_pax or long_name or long_link:
                    raise self._fail("it ends after an extended header")
                return None
            self.members += 1
            if self.members > limits.MEMBERS:
                raise self._fail(f"more than {limits.MEMBERS} members")
            fields = _HEADER.unpack(block)
            self._check_sum(block, fields[6])
            kind = fields[7]
            if kind == b"x" or kind == b"X":
                pax = self._pax_records(self._extension(fields[4]))
                has_pax = True
            elif kind == b"g":
                self._set_global(self._pax_records(self._extension(fields[4])))
            elif kind == b"L":
                long_name = self._long(fields[4])
            elif kind == b"K":
                long_link = self._long(fields[4])
            else:
                if has_pax and (long_name or long_link):
                    # Tools disagree on which of the two names wins.
                    raise self._fail("a member with both pax and GNU extensions")
                return self._member(block, fields, pax, long_name, long_link)

    def _check_sum(self, block: bytes, field: bytes) -> None:
        wanted = self._number(field, "checksum")
        if _sum(block) - sum(field) + 256 == wanted:
            return
        # Some old tars summed signed characters.
        signed = sum(byte - 256 if byte > 127 else byte for byte in block)
        signed -= sum(byte - 256 if byte > 127 else byte for byte in field)
        if signed + 256 != wanted:
            raise self._fail("bad header checksum")

    def _number(self, field: bytes, what: str) -> int:
        """Read a header's number: octal digits, or base-256 with the first bit set."""
        text = field.strip(b" \0")
        if text.isdigit():
            try:
                return int(text, 8)
            except ValueError:
                raise self._fail(f"bad {what}") from None
        if not text:
            return 0
        if not field[0] & 0x80:
            raise self._fail(f"bad {what}")
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value

    def _extension(self, size_field: bytes) -> bytes:
        """Return the data of an extended header."""
        size = self._number(size_field, "size")
        if not 0 <= size <= limits.EXTENSION_BYTES:
            raise self._fail(f"an extended header of {size} bytes")
        data = self._take(size)
        self._skip(-size % _SIZE)
        return data

    def _long(self, size_field: bytes) -> bytes:
        name = self._extension(size_field).rstrip(b"\0")
        if not name or b"\0" in name:
            raise self._fail("bad GNU long name")
        return name

    def _pax_records(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Split "LENGTH KEY=VALUE\\n" records; the length counts itself."""
        records = []
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 10)
            digits = data[position:space] if space > 0 else b""
            end = position + int(digits) if digits.isdigit() else 0
            if not space < end <= len(data) or data[end - 1] != 0x0A:
                raise self._fail("bad pax record")
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not equals or not key or b"\0" in key:
                raise self._fail("bad pax record")
            records.append((key, value))
            position = end
        return records

    def _set_global(self, records: list[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            if key.startswith(_NEVER_GLOBAL):
                raise self._fail(f"a global pax header sets {_show(key)}")
            self._global[key] = value
        if sum(len(key) + len(value) for key, value in self._global.items()) > (
            limits.EXTENSION_BYTES
        ):
            raise self._fail("the global pax headers are too large")

    def _member(
        self,
        block: bytes,
        fields: tuple[bytes, ...],
        records: list[tuple[bytes, bytes]],
        long_name: bytes,
        long_link: bytes,
    ) -> Member:
        pax: dict[bytes, bytes] = dict(self._global) if self._global else {}
        if records:
            pax.update(records)
        kind = fields[7]
        name = long_name or _header_name(block, fields)
        name = pax.get(b"path") or name
        size = self._number(fields[4], "size")
        if pax.get(b"size"):
            size = self._decimal(pax[b"size"], "size")
        if kind == b"\0":
            kind = REGULAR
            if name.endswith(b"/"):
                if size:
                    raise self._fail("a directory with data")
                kind = DIRECTORY
        elif kind == b"7":
            kind = REGULAR
        if kind in _HEADER_ONLY:
            size = 0
        elif kind != REGULAR and kind != b"S":
            raise self._fail(f"unknown member type {_show(kind)}")
        if not 0 <= size <= limits.LAYER_BYTES:
            raise self._fail(f"a member of {size} bytes")
        member = Member(name, kind, size)
        self._data = size
        self._padding = -size % _SIZE
        member.mode = self._number(fields[1], "mode") & 0o7777
        member.uid = self._id(fields[2], pax.get(b"uid"), "uid")
        member.gid = self._id(fields[3], pax.get(b"gid"), "gid")
        if pax.get(b"mtime"):
            member.mtime = self._nanoseconds(pax[b"mtime"])
        else:
            member.mtime = _clamp(self._number(fields[5], "time")) * 1_000_000_000
        if kind in (HARD_LINK, SYMLINK):
            link = long_link or fields[8].partition(b"\0")[0]
            member.link = pax.get(b"linkpath") or link
        if kind == b"S":
            self._old_sparse(member, block)
        elif records:
            if kind == REGULAR:
                self._pax_sparse(member, pax, records)
            member.xattrs = self._xattrs(pax)
        if b"\0" in member.name or b"\0" in member.link:
            raise self._fail("a NUL in a name")
        return member

    def _id(self, field: bytes, override: bytes | None, what: str) -> int:
        value = self._decimal(override, what) if override else self._number(field, what)
        if not 0 <= value < 0xFFFFFFFF:
            raise self._fail(f"{what} {value} is no id")
        return value

    def _decimal(self, text: bytes, what: str) -> int:
        if not text.isdigit() or len(text) > 20:
            raise self._fail(f"bad {what}")
        return int(text)

    def _nanoseconds(self, text: bytes) -> int:
        sign = -1 if text.startswith(b"-") else 1
        whole, _, fraction = text.removeprefix(b"-").partition(b".")
        if not whole.isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
            raise self._fail("bad time")
        return sign * (_clamp(int(whole)) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))

    def _xattrs(self, pax: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
        found = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
        if len(found) > limits.XATTRS:
            raise self._fail("too many extended attributes")
        return found or None

    # -- sparse files ------------------------------------------------------------------------

    def _old_sparse(self, member: Member, block: bytes) -> None:
        """Read GNU's old format: a map in the header and in blocks after it."""
        member.kind = REGULAR
        pairs = self._sparse_pairs(block[386:482])
        extended = block[482]
        member_size = self._number(block[483:495], "sparse size")
        while extended:
            block = self._take(_SIZE)
            pairs += self._sparse_pairs(block[:504])
            extended = block[504]
            self._check_entries(len(pairs))
        self._set_sparse(member, pairs, member_size)

    def _sparse_pairs(self, table: bytes) -> list[tuple[int, int]]:
        pairs = []
        for start in range(0, len(table), 24):
            offset, length = table[start : start + 12], table[start + 12 : start + 24]
            if not offset[0] or not length[0]:
                break
            pairs.append((self._number(offset, "sparse map"), self._number(length, "sparse map")))
        return pairs

    def _pax_sparse(
        self, member: Member, pax: dict[bytes, bytes], records: list[tuple[bytes, bytes]]
    ) -> None:
        """Read GNU's three pax formats of sparse files."""
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if size is None:
            if any(key.startswith(b"GNU.sparse.") for key in pax):
                raise self._fail("a sparse file without a size")
            return
        member.name = pax.get(b"GNU.sparse.name") or member.name
        if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            numbers = self._sparse_prefix()
        elif b"GNU.sparse.map" in pax:
            texts = pax[b"GNU.sparse.map"].split(b",") if pax[b"GNU.sparse.map"] else []
            self._check_entries(len(texts) // 2)
            numbers = [self._decimal(text, "sparse map") for text in texts]
        else:
            numbers = self._sparse_records(records)
        if len(numbers) % 2:
            raise self._fail("bad sparse map")
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        self._set_sparse(member, pairs, self._decimal(size, "sparse size"))

    def _sparse_records(self, records: list[tuple[bytes, bytes]]) -> list[int]:
        """Read format 0.0: offset and numbytes records by turns."""
        numbers: list[int] = []
        turn = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        for key, value in records:
            if key in turn:
                if key != turn[len(numbers) % 2]:
                    raise self._fail("bad sparse map")
                numbers.append(self._decimal(value, "sparse map"))
        self._check_entries(len(numbers) // 2)
        return numbers

    def _sparse_prefix(self) -> list[int]:
        """Read format 1.0: decimal lines before the data, padded to a block."""
        used = 0
        carry = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            if used + _SIZE > self._data or len(carry) > 20:
                raise self._fail("bad sparse map")
            *lines, carry = (carry + self._take(_SIZE)).split(b"\n")
            used += _SIZE
            numbers += [self._decimal(line, "sparse map") for line in lines]
            if numbers and wanted == 1:
                self._check_entries(numbers[0])
                wanted = 1 + 2 * numbers[0]
        if len(numbers) != wanted or carry.strip(b"\0"):
            raise self._fail("bad sparse map")
        self._data -= used
        return numbers[1:]

    def _check_entries(self, count: int) -> None:
        if count > limits.SPARSE_ENTRIES:
            raise self._fail(f"a sparse file of {count} pieces")

    def _set_sparse(self, member: Member, pairs: list[tuple[int, int]], size: int) -> None:
        if not 0 <= size <= limits.SPARSE_BYTES:
            raise self._fail(f"a sparse file of {size} bytes")
        self._check_entries(len(pairs))
        end = total = 0
        for offset, length in pairs:
            if offset < end or length < 0 or offset + length > size:
                raise self._fail("bad sparse map")
            end = offset + length
            total += length
        if total != self._data:
            raise self._fail("a sparse map that does not match its data")
        member.size = size
        member.sparse = [pair for pair in pairs if pair[1]]

    # -- the end -----------------------------------------------------------------------------

    def _check_tail(self) -> None:
        """Read what follows the end of the archive: zeros, and not many of them."""
        left = limits.TRAILING_BYTES
        while True:
            tail = self._buffer[self._position :]
            self._position = len(self._buffer)
            left -= len(tail)
            if tail.count(0) != len(tail):
                raise self._fail("data after the end of the archive")
            if left < 0:
                raise self._fail("too much padding after the end of the archive")
            if not self._more():
                return


def check_start(start: bytes, what: str) -> bool:
    """Tell whether an archive has a member, by its first BLOCK_BYTES.

    Raises:
        TarError: it is no archive.
    """
    reader = TarReader((start,), what)
    block = reader._block()
    if block in (b"", _ZERO):
        return False
    reader._check_sum(block, _HEADER.unpack(block)[6])
    return True


def _reader(chunks: Iterable[bytes]) -> Callable[[], bytes]:
    """Return a function that gives the next chunk that is not empty, b"" at the end."""
    iterator = iter(chunks)

    def read() -> bytes:
        for chunk in iterator:
            if chunk:
                return chunk
        return b""

    return read


def _sum(block: bytes) -> int:
    """Return the sum of the bytes of a header block, in an eighth of the time of `sum`.

    The lower half of Adler-32 is this sum modulo 65521, which 256 bytes do not reach.
    """
    half = _SIZE // 2
    return (zlib.adler32(block[:half], 0) & 0xFFFF) + (zlib.adler32(block[half:], 0) & 0xFFFF)


def _clamp(seconds: int) -> int:
    """Return a time that utimensat(2) takes; the file system narrows it further."""
    return max(-(1 << 40), min(seconds, 1 << 40))


def _header_name(block: bytes, fields: tuple[bytes, ...]) -> bytes:
    name = fields[0].partition(b"\0")[0]
    if fields[9][:6] == b"ustar\0":
        # star's own variant keeps times in the last 24 bytes of the prefix.
        is_star = block[508:512] == b"tar\0"
        prefix = (fields[14][:131] if is_star else fields[14]).partition(b"\0")[0]
        if prefix:
            return prefix + b"/" + name
    return name


def _show(text: bytes) -> str:
    return escape(text.decode("utf-8", "backslashreplace"))
