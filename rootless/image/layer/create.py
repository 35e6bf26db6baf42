"""Make a new layer, from a tar that is written at the same time.

The tar is never stored. One process writes it into a pipe, the other reads it like a pulled layer:
hashed, parsed by the one parser, unpacked for the map of the container, with the split from which
`save` and `push` write the same bytes again. So a committed layer is the same as a pull of it.

This runs in a child that is root of a user namespace with the map: `make` starts it, `make_here` is
for one who is such a process already.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.changes import changes
from rootless.image.layer.layers import (
    Caller,
    is_complete,
    move_into_place,
    place_split,
    user_files,
)
from rootless.image.layer.lookup import LayerLookup
from rootless.image.layer.seal import seal
from rootless.image.layer.tar_reader import TarReader
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.layer.tarsplit import SplitWriter, read_tar, write_tar
from rootless.image.layer.unpack import Unpacker, supports_overlay_whiteouts
from rootless.image.model import limits
from rootless.image.model.digest import chain_id
from rootless.image.store.records import write_meta
from rootless.image.store.store import layer_dir, split_path
from rootless.linux.idmap import call_in_userns
from rootless.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from rootless.image.layer.archiver import OwnerOf
    from rootless.image.layer.seal import Sealed
    from rootless.linux.idmap import IdMap
    from rootless.rootfs.stored import Part

_NAME = "layer"
_READ = 256 << 10


def make(
    root: str,
    idmap: IdMap,
    chains: Sequence[str],
    lowers: Sequence[str],
    write: Callable[[int], None],
    scratch: str,
    told: Callable[[Iterable[bytes]], Iterator[bytes]],
) -> dict[str, Any]:
    """Make a layer on top of others; return its meta record.

    Args:
        chains: chain ids of the layers below, bottom first. lowers: their directories.
        write: writes the tar to a descriptor; runs in the user namespace too.
        scratch: an empty directory of the store's file system.
        told: passes on the chunks of the tar, and shows the progress.

    Raises:
        RlessError: what `write` raised, or that there is no room. The store is as before then.

    Where it runs: the work in a child; the caller must have no second thread.
    """
    private_dir(f"{root}/layers/{idmap.key}")
    below = chains[-1] if chains else None
    meta: dict[str, Any] = call_in_userns(
        idmap, _make, root, idmap, below, lowers, write, scratch, told, Caller(idmap)
    )
    return meta


def _make(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    write: Callable[[int], None],
    scratch: str,
    told: Callable[[Iterable[bytes]], Iterator[bytes]],
    caller: Caller,
) -> dict[str, Any]:
    caller.bind_child()
    return _keep(root, idmap, below, lowers, _Source(write), scratch, caller.ids, told)


def make_here(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    write: Callable[[int], None],
    scratch: str,
    *,
    newest: int | None = None,
) -> dict[str, Any]:
    """Make a layer as `make` does, in this process.

    Args:
        below: chain id of the layer below, None at the bottom. lowers: all directories below,
            bottom first.
        write: runs in a child of this process.
        newest: what `write` writes gets no later time, in seconds since 1970; for
            SOURCE_DATE_EPOCH.

    Raises:
        RlessError: what `write` raised, or that there is no room. The store is as before then.

    Where it runs: as root of a user namespace with the map, with umask 0 and enough descriptors
    for all layers; the caller must have no second thread.
    """
    source = _Source(write, newest)
    return _keep(root, idmap, below, lowers, source, scratch, _owner(root), iter)


def repeat(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    original: str,
    scratch: str,
) -> dict[str, Any]:
    """Make a layer of the store once more, on top of others: the same tar; as `make_here`.

    Args:
        original: its chain id, under the same map.

    Raises:
        RlessError: it is not there any more as it was, or there is no room.
    """
    directory, split = layer_dir(root, idmap.key, original), split_path(root, original)
    return make_here(
        root, idmap, below, lowers, lambda out: write_tar(directory, split, out), scratch
    )


def adopt(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    upper: Part,
    scratch: str,
    *,
    hidden: Collection[bytes] = (),
    newest: int | None = None,
    owner: OwnerOf | None = None,
    most: int = limits.LAYER_BYTES,
) -> dict[str, Any] | Unsealed:
    """Make a layer of what was written over others; return its meta record.

    Where overlayfs of the kernel wrote it, in the store's file system, its directory becomes the
    layer by a rename, and nothing is copied. Else the changes are written as by `make_here`.

    Args:
        below, lowers: as for `make_here`.
        upper: as `rootfs.stored.parts` has it; it is mounted nowhere any more. In its place there
            is nothing, or half of it, afterwards.
        hidden: paths that were mounts, without the slash in front: what was made for them goes.
        newest: no file gets a later time, in seconds since 1970.
        owner: of a file, where the directory does not tell (`owners`).
        most: bytes of contents; of more the digest may be put off, and the layer is unsealed.

    Raises:
        RlessError: it has what no layer can have, or there is no room. The store is as before.

    Where it runs: as `make_here`.
    """

    def write(out: int) -> None:
        writer = TarWriter(out)
        Archiver(writer, owner=owner).changes(changes(upper, hidden))
        writer.end()

    with telling():
        scratch_fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        is_here = os.fstat(scratch_fd).st_dev == os.stat(upper.upper).st_dev
        if upper.whole or upper.marks or not is_here:
            os.close(scratch_fd)
            return make_here(root, idmap, below, lowers, write, scratch, newest=newest)
        try:
            sealed = _seal(upper, scratch_fd, hidden, newest, owner, most)
            made = _adopt(root, idmap, lowers, upper, scratch, scratch_fd, sealed)
        finally:
            os.close(scratch_fd)
        return made.seal(below) if sealed.digest else made


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Have an error tell that the layer cannot be kept.

    Raises:
        RlessError: in place of any OSError, too.
    """
    try:
        yield
    except OSError as error:
        raise RlessError(
            f"cannot keep the layer: {error.strerror}", limits.hint(error.errno)
        ) from error
    except RlessError as error:
        raise error.within("cannot keep the layer") from error


class Unsealed:
    """A layer in its scratch directory.

    Attributes:
        directory: of its files, which do not change any more.
    """

    def __init__(self, root: str, idmap: IdMap, scratch: str, sealed: Sealed) -> None:
        self._root = root
        self._idmap = idmap
        self._scratch = scratch
        self._sealed = sealed
        self.directory = f"{scratch}/{_NAME}"

    def seal(self, below: str | None) -> dict[str, Any]:
        """Compute the digest, if it was put off; move the layer into the store.

        Returns:
            The meta record.

        Args:
            below: chain id of the layer below, None at the bottom.

        Raises:
            RlessError: a file of it cannot be read. OSError: there is no room.
        """
        digest = self._sealed.digest
        if not digest:
            tar = hashlib.sha256()
            read_tar(self.directory, f"{self._scratch}/{_NAME}.split", tar.update)
            digest = tar.hexdigest()
        scratch_fd = os.open(self._scratch, os.O_RDONLY | os.O_DIRECTORY)
        root_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            meta = _meta(self._idmap, below, digest, self._sealed.size, root_fd, overlay=True)
            meta["lost_xattrs"] = self._sealed.lost_xattrs
            _place(self._root, self._idmap, meta, self._scratch, scratch_fd, _owner(self._root))
        finally:
            os.close(root_fd)
            os.close(scratch_fd)
        return meta


def _seal(
    upper: Part,
    scratch_fd: int,
    hidden: Collection[bytes],
    newest: int | None,
    owner: OwnerOf | None,
    most: int,
) -> Sealed:
    split = SplitWriter(scratch_fd, f"{_NAME}.split")
    try:
        sealed = seal(upper, split, hidden, newest, owner, most)
        split.finish()
    finally:
        split.close()
    return sealed


def _adopt(
    root: str,
    idmap: IdMap,
    lowers: Sequence[str],
    upper: Part,
    scratch: str,
    scratch_fd: int,
    sealed: Sealed,
) -> Unsealed:
    if not sealed.has_root:
        root_fd = os.open(upper.upper, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _like(root_fd, os.stat(lowers[-1]) if lowers else None, idmap)
        finally:
            os.close(root_fd)
    os.rename(upper.upper, _NAME, dst_dir_fd=scratch_fd)
    return Unsealed(root, idmap, scratch, sealed)


def _owner(root: str) -> tuple[int, int]:
    """Return the owner of the store's own files, as this namespace shows it."""
    return os.stat(root).st_uid, -1


def _keep(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    source: _Source,
    scratch: str,
    owner: tuple[int, int],
    told: Callable[[Iterable[bytes]], Iterator[bytes]],
) -> dict[str, Any]:
    try:
        meta = _unpack(root, idmap, below, lowers, source, told, scratch, owner)
    except RlessError as error:
        # A tar that was cut short is no wonder if its writer failed.
        source.check()
        raise error.within("cannot keep the layer") from error
    return meta


def _unpack(
    root: str,
    idmap: IdMap,
    below: str | None,
    lowers: Sequence[str],
    source: _Source,
    told: Callable[[Iterable[bytes]], Iterator[bytes]],
    scratch: str,
    owner: tuple[int, int],
) -> dict[str, Any]:
    try:
        scratch_fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        overlay = supports_overlay_whiteouts(scratch_fd)
        os.mkdir(_NAME, 0o700, dir_fd=scratch_fd)
        root_fd = os.open(_NAME, os.O_RDONLY | os.O_DIRECTORY, dir_fd=scratch_fd)
        split = SplitWriter(scratch_fd, f"{_NAME}.split")
        lower_fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in lowers]
        view = LayerLookup(root_fd, lambda: lower_fds)
        unpacker = Unpacker(root_fd, view, idmap, split, overlay_whiteouts=overlay)
        unpacker.apply(TarReader(told(source), split=split))
        source.check()
        split.finish()
        view.close()
        if not unpacker.has_root:
            _like(root_fd, os.fstat(lower_fds[-1]) if lower_fds else None, idmap)
    except OSError as error:
        raise RlessError(str(error.strerror), limits.hint(error.errno)) from error
    meta = _meta(idmap, below, source.hash.hexdigest(), unpacker.bytes, root_fd, overlay=overlay)
    meta["skipped_devices"] = unpacker.skipped_devices
    meta["lost_xattrs"] = unpacker.lost_xattrs
    _place(root, idmap, meta, scratch, scratch_fd, owner)
    return meta


def _meta(
    idmap: IdMap, below: str | None, digest: str, size: int, root_fd: int, *, overlay: bool
) -> dict[str, Any]:
    """Return the meta record of a layer that lost nothing on its way."""
    diff_id = f"sha256:{digest}"
    return {
        "chain": chain_id(below, diff_id),
        "diff_id": diff_id,
        "blob": None,
        "size": size,
        "whiteouts": "overlay" if overlay else "aufs",
        "skipped_devices": 0,
        "lost_xattrs": 0,
        "users": user_files(root_fd),
        "uids": idmap.uids,
        "gids": idmap.gids,
    }


def _place(
    root: str,
    idmap: IdMap,
    meta: dict[str, Any],
    scratch: str,
    scratch_fd: int,
    owner: tuple[int, int],
) -> None:
    """Move a finished layer into the store, its records first."""
    chain = meta["chain"]
    if not is_complete(root, idmap.key, chain):
        write_meta(root, idmap.key, meta, scratch, owner)
        place_split(scratch_fd, f"{_NAME}.split", split_path(root, chain), owner)
        move_into_place(scratch_fd, _NAME, layer_dir(root, idmap.key, chain))


def _like(root_fd: int, below: os.stat_result | None, idmap: IdMap) -> None:
    """Give a layer that says nothing of its root what the root is below."""
    if below is None:
        os.fchmod(root_fd, 0o755)
        return
    if not idmap.single:
        os.fchown(root_fd, below.st_uid, below.st_gid)
    os.fchmod(root_fd, stat.S_IMODE(below.st_mode))
    os.utime(root_fd, ns=(below.st_mtime_ns, below.st_mtime_ns))


class _Source:
    """The tar, as another process writes it; iterate over its chunks.

    Attributes:
        hash: of everything read so far.
    """

    def __init__(self, write: Callable[[int], None], newest: int | None = None) -> None:
        self.hash = hashlib.sha256()
        self._reader, writer = os.pipe()
        self._failure, failure = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            TarWriter.newest = newest  # this process writes nothing but this tar
            _write(write, writer, failure, (self._reader, self._failure))
        os.close(writer)
        os.close(failure)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := os.read(self._reader, _READ):
            self.hash.update(chunk)
            yield chunk

    def check(self) -> None:
        """Wait for the writer's end, and raise what it failed by."""
        if self._pid == 0:
            return
        os.close(self._reader)  # one that still writes is ended by that
        said = b""
        while chunk := os.read(self._failure, 65536):
            said += chunk
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if said:
            message, _, hint = said.decode("utf-8", "backslashreplace").partition("\0")
            raise RlessError(message, hint or None, 1)
        if status == 1 << 8:
            return  # nobody read on: the reader knows why
        if status:
            raise RlessError(f"the process that reads the container's files ended ({status})")


def _write(write: Callable[[int], None], writer: int, failure: int, others: Sequence[int]) -> None:
    """Run the writer in its process; never return into the caller's stack."""
    code = 0
    try:
        for fd in others:
            os.close(fd)
        write(writer)
    except BrokenPipeError:
        code = 1
    except BaseException as error:
        code = 2
        if isinstance(error, RlessError):
            text = f"{error.message}\0{error.hint or ''}"
        elif isinstance(error, OSError):
            name = f"{error.filename}: " if error.filename else ""
            text = f"{name}{error.strerror}"
        else:
            text = f"internal error: {type(error).__name__}: {error}"
        os.write(failure, text.encode("utf-8", "backslashreplace")[:4096])
    finally:
        os._exit(code)
