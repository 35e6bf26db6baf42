"""`cp`: copy files between a container and the host, as Docker does, whether it runs or not.

The destination decides what happens, in both directions (SRC is copied to DST):

    DST is a directory           SRC goes into it, under its own name; of SRC/. the contents
    DST is a file                SRC must be a file, and replaces it
    DST does not exist           its parent must; SRC gets that name
      and ends with a slash      SRC must be a directory

If DST ends in a link, the link is followed; if SRC does, only with -L or with a slash after it.
Each side resolves its own paths: the container's beneath the root of the container
(`rootfs_access`), whatever links it has, and the host's as its user. The two sides exchange names
and open files (`fd_transfer`), or, for `-`, a tar archive.

Files in the container belong to its root, files on the host to the caller. -a keeps the numeric
owners: in the container that must succeed, on the host it is tried. Set-id bits are dropped on the
host.
"""

from __future__ import annotations

import errno
import os
import posixpath
import socket
import stat
import sys
import time
import zlib

from rootless import log
from rootless.engine.files import rootfs_access
from rootless.engine.files.copy_paths import Path, container_side, host_side
from rootless.engine.files.fd_transfer import (
    Facts,
    Reader,
    ReadOnlyError,
    Rules,
    Sender,
    Writer,
    kind_of,
    receive,
    receive_into,
)
from rootless.engine.state.container import find
from rootless.engine.state.events import of_container
from rootless.errors import RlessError, SyscallError, escape
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.tar_reader import (
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Member,
    TarReader,
)
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.layer.unpack import normalise
from rootless.linux.call import shown
from rootless.linux.openat2 import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    make_dirs,
    openat2,
)
from rootless.linux.walk import Entry, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rootless.engine.state.container import Container

_READ = 256 << 10
_STEP_SECONDS = 0.2
_HOST_MODES = 0o777


class CopyRequest:
    """The options of `cp`.

    Attributes:
        archive: keep owners (-a). follow: copy what a link as SRC points to (-L).
        quiet: print nothing.
    """

    __slots__ = ("archive", "follow", "quiet")

    def __init__(self, archive: bool = False, follow: bool = False, quiet: bool = False) -> None:
        self.archive = archive
        self.follow = follow
        self.quiet = quiet


def copy(source: str, destination: str, request: CopyRequest) -> None:
    """Copy between a container and the host; one of the two is CONTAINER:PATH.

    Raises:
        RlessError: all that Docker refuses too, with exit code 1.
    """
    if not source:
        raise RlessError("source can not be empty", None, 1)
    if not destination:
        raise RlessError("destination can not be empty", None, 1)
    from_name, from_path = split(source)
    to_name, to_path = split(destination)
    if from_name and to_name:
        raise RlessError("copying between containers is not supported", "copy through the host", 1)
    if from_name:
        _from_container(find(from_name), Path(from_path), to_path, request)
    elif to_name:
        _to_container(find(to_name), from_path, Path(to_path), to_name, request)
    else:
        raise RlessError("must specify at least one container source", "CONTAINER:PATH", 1)


def split(argument: str) -> tuple[str, str]:
    """Return (container, path) of an argument; the container is "" for a path of the host."""
    if argument.startswith("/"):
        return "", argument
    name, colon, path = argument.partition(":")
    if not colon or name.startswith("."):
        return "", argument  # ./file:name, and `-`
    return name, path


# -- from a container ----------------------------------------------------------------------------


def _from_container(
    container: Container, source: Path, destination: str, request: CopyRequest
) -> None:
    name = container.facts["name"]
    if destination == "-":
        rootfs_access.call(
            container, lambda root_fd: _archive(root_fd, name, source, request), purpose="cp"
        )
        of_container("archive-path", container)
        return
    target = Path(destination, os.getcwd())
    host = host_side('invalid output path: directory "{}" does not exist')
    os.close(host.find(target, True).dir_fd)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    progress = Progress("Copying from container", request.quiet)
    owner = "try" if request.archive else None

    def give(root_fd: int) -> None:
        spot = container_side(root_fd, name).source(source, request.follow)
        sender = Sender(theirs)
        Reader(sender, f"{name}:{source}").give(spot.dir_fd, spot.name, source.name or b"root")
        sender.end()

    def take() -> None:
        first = receive(ours)
        if first.kind == b"E":
            raise RlessError(f"{escape(str(source))} has vanished", None, 1)
        base_fd, top = host.destination(target, source, first.kind == b"D", str(target))
        writer = Writer(base_fd, top, Rules(owner, _HOST_MODES, _where(target, top)))
        try:
            receive_into(ours, writer, first, progress.show)
        except ReadOnlyError as error:
            raise RlessError(
                f"cannot write {escape(str(target))}: {error.message}", None, 1
            ) from error
        finally:
            writer.close()
            os.close(base_fd)
        progress.end(writer.copied, str(target))

    rootfs_access.call(container, give, channel=(ours, theirs), meanwhile=take, purpose="cp")
    of_container("archive-path", container)


def _where(path: Path, top: bytes | None) -> str:
    """Return how errors name the directory that is written in."""
    return str(path) if top is None or path.name != top else os.path.dirname(str(path))


def _archive(root_fd: int, name: str, source: Path, request: CopyRequest) -> None:
    """Write a file or a tree to standard output, as a tar archive."""
    spot = container_side(root_fd, name).source(source, request.follow)
    assert spot.status is not None
    writer = TarWriter(1)
    archiver = Archiver(writer)
    top = b"." if source.contents else source.name
    if not spot.is_directory:
        if not stat.S_ISREG(spot.status.st_mode) and not stat.S_ISLNK(spot.status.st_mode):
            what = kind_of(spot.status.st_mode)
            raise RlessError(f"cannot copy {name}:{source}: it is a {what}", None, 1)
        archiver.add(top, Entry(spot.name, spot.name, spot.dir_fd, -1, spot.status))
    else:
        for entry in walk(spot.open_directory()):
            if not entry.leaving:
                archiver.add(top + b"/" + entry.path if entry.path else top, entry)
    writer.end()


# -- to a container ------------------------------------------------------------------------------


def _to_container(
    container: Container, source: str, destination: Path, shown_name: str, request: CopyRequest
) -> None:
    name = container.facts["name"]
    where = f"{name}:{destination}"
    modes = 0o1777 if container.idmap().single else 0o7777
    rules = Rules("keep" if request.archive else None, modes, where)
    if source == "-":
        chunks = _decompressed(os.read(0, _READ))

        def unpack(root_fd: int) -> None:
            with _Explained(root_fd, destination):
                side = container_side(root_fd, name)
                if not side.source(destination, True).is_directory:
                    raise RlessError(f'destination "{escape(where)}" must be a directory', None, 1)
                _Unpacker(root_fd, destination.text, rules).run(TarReader(chunks, "standard input"))

        rootfs_access.call(container, unpack, purpose="cp")
        of_container("extract-to-dir", container)
        return
    path = Path(source, os.getcwd())
    host = host_side("lstat {}: no such file or directory")
    spot = host.source(path, request.follow)
    assert spot.status is not None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    progress = Progress("Copying to container", request.quiet)

    def take(root_fd: int) -> None:
        with _Explained(root_fd, destination):
            first = receive(theirs)
            side = container_side(root_fd, name)
            base_fd, top = side.destination(destination, path, first.kind == b"D", where)
            rules.where = _where(destination, top)
            receive_into(theirs, Writer(base_fd, top, rules), first)

    def give() -> None:
        sender = Sender(ours)
        reader = Reader(sender, str(path), progress.show)
        reader.give(spot.dir_fd, spot.name, path.name or b"root")
        sender.end()
        copied.append(reader.copied)

    copied: list[int] = []
    rootfs_access.call(container, take, channel=(ours, theirs), meanwhile=give, purpose="cp")
    progress.end(sum(copied), f"{shown_name}:{destination}")
    of_container("extract-to-dir", container)


class _Explained:
    """Explains, as Docker does, why a destination is read-only."""

    def __init__(self, root_fd: int, path: Path) -> None:
        self.root_fd = root_fd
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if not isinstance(error, ReadOnlyError):
            return
        what = "container rootfs"
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
        for path in (self.path.text, posixpath.dirname(self.path.text)):
            try:
                os.close(openat2(self.root_fd, path, os.O_PATH, resolve=resolve))
                break
            except SyscallError as failure:
                if failure.errno == errno.EXDEV:
                    what = "mounted volume"
                    break
        raise RlessError(f"{what} is marked read-only", None, 1) from error


class _Unpacker:
    """Write the members of an archive beneath a directory of the container.

    Links of the container are followed, but never out of its root; `..` in a name is refused.
    """

    def __init__(self, root_fd: int, base: bytes, rules: Rules) -> None:
        self.root_fd = root_fd
        self.base = base.rstrip(b"/")
        self.rules = rules
        self.directories: dict[bytes, Facts] = {}

    def run(self, reader: TarReader) -> None:
        for member in reader:
            path = normalise(member.name)
            if path:
                self._member(member, path, reader)
        for path, facts in self.directories.items():
            self._finish(path, facts)

    def _open(self, path: bytes) -> int:
        try:
            return make_dirs(self.root_fd, self.base + b"/" + path)
        except SyscallError as error:
            if error.errno == errno.EROFS:
                raise ReadOnlyError from error
            raise RlessError(
                f"cannot write {shown(self.base + b'/' + path)}: {os.strerror(error.errno)}",
                None,
                1,
            ) from error

    def _member(self, member: Member, path: bytes, reader: TarReader) -> None:
        parent, _, name = path.rpartition(b"/")
        dir_fd = self._open(parent)
        self.rules.where = os.fsdecode(self.base + b"/" + parent)
        writer = Writer(dir_fd, name, self.rules)
        facts = Facts(member.mode, member.uid, member.gid, member.mtime, member.size)
        try:
            if member.kind == DIRECTORY:
                writer.directory(name, facts)
                self.directories[path] = facts
            elif member.kind == REGULAR:
                writer.contents(name, facts, lambda made: _contents(made, member, reader))
            elif member.kind == SYMLINK:
                writer.symlink(name, facts, member.link)
            elif member.kind == HARD_LINK:
                self._link(writer, name, member)
            else:
                log.warn(f"{shown(path)}: a device or FIFO is not copied")
        finally:
            writer.close()
            os.close(dir_fd)

    def _link(self, writer: Writer, name: bytes, member: Member) -> None:
        target = normalise(member.link)
        parent, _, base = target.rpartition(b"/")
        source_fd = self._open(parent)
        try:
            writer.link(name, source_fd, base)
        finally:
            os.close(source_fd)

    def _finish(self, path: bytes, facts: Facts) -> None:
        parent, _, name = path.rpartition(b"/")
        dir_fd = self._open(parent)
        writer = Writer(dir_fd, name, self.rules)
        try:
            writer.directory(name, facts)
            writer.leave()
        finally:
            writer.close()
            os.close(dir_fd)


def _contents(made: int, member: Member, reader: TarReader) -> int:
    if member.sparse is None:
        reader.copy_to(made, member.size)
        return member.size
    os.ftruncate(made, member.size)
    for offset, length in member.sparse:
        os.lseek(made, offset, os.SEEK_SET)
        reader.copy_to(made, length)
    return member.size


def _decompressed(start: bytes) -> Iterator[bytes]:
    """Yield standard input, of which `start` was read, without gzip, bzip2 or xz.

    What decompresses is loaded now: in the container nothing can be.
    """
    if start.startswith(b"\x1f\x8b"):
        return _inflate(start, lambda: zlib.decompressobj(31))
    if start.startswith(b"BZh"):
        import bz2

        return _inflate(start, bz2.BZ2Decompressor)
    if start.startswith(b"\xfd7zXZ"):
        import lzma

        return _inflate(start, lzma.LZMADecompressor)
    return _input(start)


def _input(start: bytes) -> Iterator[bytes]:
    while start:
        yield start
        start = os.read(0, _READ)


def _inflate(start: bytes, make: Callable[[], object]) -> Iterator[bytes]:
    stream: object = make()
    failures: tuple[type[Exception], ...] = (zlib.error, OSError, EOFError, ValueError)
    lzma = sys.modules.get("lzma")
    if lzma is not None:
        failures = (*failures, lzma.LZMAError)
    for chunk in _input(start):
        data = chunk
        while data:
            try:
                if stream.eof:  # type: ignore[attr-defined]
                    stream = make()  # one member after the other
                piece: bytes = stream.decompress(data)  # type: ignore[attr-defined]
            except failures as error:
                raise RlessError(f"standard input: broken archive: {error}", None, 1) from error
            data = stream.unused_data  # type: ignore[attr-defined]
            if piece:
                yield piece
    if not stream.eof:  # type: ignore[attr-defined]
        raise RlessError("standard input: broken archive: it is cut short", None, 1)


# -- what is told --------------------------------------------------------------------------------


class Progress:
    """Shows progress on a terminal, and a closing line, as Docker does."""

    def __init__(self, header: str, quiet: bool) -> None:
        self.header = header
        self.quiet = quiet
        self.is_terminal = not quiet and os.isatty(2)
        self.next = time.monotonic() + _STEP_SECONDS
        self.shown = False

    def show(self, copied: int) -> None:
        """Note the bytes so far."""
        if not self.is_terminal:
            return
        now = time.monotonic()
        if now >= self.next:
            self.next = now + _STEP_SECONDS
            self.shown = True
            self._write(f"\r\x1b[K{self.header} - {human(copied)}")

    def end(self, copied: int, destination: str) -> None:
        """Say that all was copied."""
        if not self.quiet:
            clear = "\r\x1b[K" if self.shown else ""
            what = f"Successfully copied {human(copied)} to {escape(destination)}"
            self._write(f"{clear}{what}\n")

    def _write(self, text: str) -> None:
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # the copy matters


def human(size: float) -> str:
    """Return a number of bytes as `docker cp` does: three digits, decimal units."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    for unit in units:
        if size < 1000 or unit == units[-1]:
            break
        size /= 1000
    return f"{size:.3g}{unit}"
