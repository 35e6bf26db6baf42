"""Make the layers of one map from those of another: the same files with other owners.

An image is unpacked for the map that its own user needs, so the usual run copies nothing. To run it
as another user (`--user`, `--userns`), its layers are copied here once, with the owners translated:
container id -> host id under the old map, and back under the new one. Where the file system can
share blocks (btrfs, XFS) the copies cost no space.

This runs in a child, root of a user namespace that maps all host ids of both maps.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError
from rootless.image.layer.layers import Caller, move_into_place
from rootless.image.model import limits
from rootless.image.store import records
from rootless.image.store.ownership import everything
from rootless.image.store.store import layer_dir
from rootless.linux.idmap import IdMap, call_in_userns
from rootless.linux.openat2 import BENEATH, openat2
from rootless.paths import private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import Extent

    HostIds = dict[str, dict[int, tuple[int, int]]]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FOLLOWED = os.O_RDONLY | os.O_DIRECTORY  # a layer may be a link into an additional store
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_COPY_RANGE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_CAPABILITY = "security.capability"


def keys(root: str) -> list[str]:
    """Return the keys of all maps that something is unpacked for."""
    try:
        return sorted(os.listdir(f"{root}/layers"))
    except FileNotFoundError:
        return []


def find_source(
    root: str, chains: Sequence[str], target: IdMap, within: IdMap | None = None
) -> str | None:
    """Return the key of a map from whose layers those of `target` can be made.

    Layers that were unpacked under a single id have lost their owners: no source for others.

    Args:
        within: `namespace(target)`, for a caller that is in a user namespace already.
    """
    within = within or namespace(target)
    for key in keys(root):
        if key in ("single", target.key) or (target.single and within.single):
            continue
        metas = [
            records.read_meta(root, key, chain)
            for chain in chains
            if records.has_layer(root, key, chain)
        ]
        if len(metas) == len(chains) and all(
            meta is not None and _covers(within, _map_of(meta, key)) for meta in metas
        ):
            return key
    return None


def namespace(target: IdMap) -> IdMap:
    """Return the map to work under: the new one, or all ids if the new one has a single one."""
    return everything() if target.single else target


def _map_of(meta: dict[str, object], key: str) -> IdMap:
    uids: Sequence[Extent] = meta["uids"]  # type: ignore[assignment]
    gids: Sequence[Extent] = meta["gids"]  # type: ignore[assignment]
    return IdMap(uids, gids, key)


def _covers(outer: IdMap, inner: IdMap) -> bool:
    """Tell whether every host id of `inner` is mapped by `outer` too.

    Not so after the administrator has changed the ranges: files would seem to be nobody's.
    """
    return all(
        _is_within(extent[1], extent[2], extents)
        for inner_extents, extents in ((inner.uids, outer.uids), (inner.gids, outer.gids))
        for extent in inner_extents
    )


def _is_within(start: int, count: int, extents: Sequence[Extent]) -> bool:
    position, end = start, start + count
    for _, host, length in sorted(extents, key=lambda extent: extent[1]):
        if host <= position < host + length:
            position = host + length
    return position >= end


def convert(
    root: str,
    target: IdMap,
    source_key: str,
    chains: Sequence[str],
    scratch: str,
    source_root: str | None = None,
    hosts: HostIds | None = None,
) -> None:
    """Copy the layers of `source_key` that `target` lacks, with their owners translated.

    Args:
        source_root: the store that they lie in; None: the same.
        hosts: for each chain id, the host's ids of its files by inode, where the namespace of
            the copy cannot tell them.
    """
    private_dir(f"{root}/layers/{target.key}")
    within = namespace(target)
    source = (source_root or root, source_key, hosts or {})
    arguments = (root, target, within, source, list(chains), scratch, Caller(within))
    call_in_userns(within, _convert_all, *arguments)


def _convert_all(
    root: str,
    target: IdMap,
    within: IdMap,
    source: tuple[str, str, HostIds],
    chains: Sequence[str],
    scratch: str,
    caller: Caller,
) -> None:
    source_root, source_key, hosts = source
    caller.bind_child()
    scratch_fd = os.open(scratch, _DIRECTORY)
    for number, chain in enumerate(chains):
        if records.has_layer(root, target.key, chain):
            continue
        meta = records.read_meta(source_root, source_key, chain)
        if meta is None:
            raise RlessError("a layer was removed in the meantime", "run the command again")
        name = f"convert-{number}"
        owners = None if target.single else Owners(within, _map_of(meta, source_key))
        if owners and chain in hosts:
            owners.hosts = hosts[chain]
        try:
            source_fd = os.open(layer_dir(source_root, source_key, chain), _FOLLOWED)
            os.mkdir(name, 0o700, dir_fd=scratch_fd)
            target_fd = os.open(name, _DIRECTORY, dir_fd=scratch_fd)
            TreeCopy(source_fd, target_fd, owners).run()
            os.close(source_fd)
            os.close(target_fd)
            meta.update(uids=target.uids, gids=target.gids)
            final = layer_dir(root, target.key, chain)
            records.write_meta(root, target.key, meta, scratch, caller.ids)
            move_into_place(scratch_fd, name, final)
        except OSError as error:
            raise RlessError(
                f"cannot copy layer {chain[7:19]} for another user map: {error.strerror}",
                limits.hint(error.errno),
            ) from error


class Owners:
    """Translates what stat(2) says in this namespace to the container's own ids.

    Args:
        within: the map of this namespace, which is that of the copy too.
        source: the map that the tree was unpacked under.

    Attributes:
        hosts: the host's ids of files by inode, where this namespace does not show them.
    """

    def __init__(self, within: IdMap, source: IdMap) -> None:
        self._within = within
        self._source = source
        self.hosts: dict[int, tuple[int, int]] | None = None
        self._uids: dict[int, int] = {}
        self._gids: dict[int, int] = {}

    def translate(self, status: os.stat_result) -> tuple[int, int]:
        """Return the container's uid and gid of a file."""
        if self.hosts is not None:
            host_uid, host_gid = self.hosts[status.st_ino]
            return (
                _container_id(host_uid, self._source.uids),
                _container_id(host_gid, self._source.gids),
            )
        uid, gid = status.st_uid, status.st_gid
        if uid not in self._uids:
            self._uids[uid] = _container_id(self._within.host_uid(uid), self._source.uids)
        if gid not in self._gids:
            self._gids[gid] = _container_id(self._within.host_gid(gid), self._source.gids)
        return self._uids[uid], self._gids[gid]


def _container_id(host: int | None, extents: Sequence[Extent]) -> int:
    for first, start, count in extents:
        if host is not None and start <= host < start + count:
            return first + host - start
    raise RlessError(
        f"a file of the image belongs to host id {host}, which its map does not have",
        "pull the image again with --pull=always",
    )


class TreeCopy:
    """Copy a layer's tree of any depth: hard links, holes, attributes, times, whiteouts.

    Args:
        owners: None leaves everything to the caller's own id and drops set-id bits.
    """

    def __init__(self, source_fd: int, target_fd: int, owners: Owners | None) -> None:
        self._source_fd = source_fd
        self._target_fd = target_fd
        self._owners = owners
        self._mode_mask = 0o7777 if owners else 0o1777
        self._links: dict[tuple[int, int], bytes] = {}
        self._finished: list[tuple[bytes, int, int]] = []

    def run(self) -> None:
        """Copy everything below the two descriptors, and the roots' own attributes."""
        todo = [b""]
        while todo:
            path = todo.pop()
            source = openat2(self._source_fd, path or b".", _DIRECTORY, resolve=BENEATH)
            target = openat2(self._target_fd, path or b".", _DIRECTORY, resolve=BENEATH)
            try:
                self._attributes(source, target, path)
                with os.scandir(source) as entries:
                    names = [os.fsencode(entry.name) for entry in entries]
                for name in names:
                    below = path + b"/" + name if path else name
                    if self._entry(source, target, name, below):
                        todo.append(below)
            finally:
                os.close(source)
                os.close(target)
        for path, mode, mtime in self._finished:
            fd = openat2(self._target_fd, path or b".", _DIRECTORY, resolve=BENEATH)
            if mode & 0o6000:
                os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
            os.close(fd)

    def _attributes(self, source: int, target: int, path: bytes) -> None:
        status = os.fstat(source)
        mode = stat.S_IMODE(status.st_mode) & self._mode_mask
        if self._owners:
            os.fchown(target, *self._owners.translate(status))
        os.fchmod(target, mode & 0o1777)
        self._copy_xattrs(source, target)
        self._finished.append((path, mode, status.st_mtime_ns))

    def _entry(self, source: int, target: int, name: bytes, path: bytes) -> bool:
        """Copy one entry; True: it is a directory, made empty, that is still to be filled."""
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = status.st_mode
        if stat.S_ISDIR(kind):
            os.mkdir(name, 0o700, dir_fd=target)
            return True
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                ends = {"src_dir_fd": self._target_fd, "dst_dir_fd": target}
                os.link(first, name, follow_symlinks=False, **ends)
                return False
        if stat.S_ISREG(kind):
            self._file(source, target, name, status)
            return False
        if stat.S_ISLNK(kind):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(kind):
            os.mkfifo(name, stat.S_IMODE(kind), dir_fd=target)
        elif stat.S_ISCHR(kind) and status.st_rdev == 0:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
        else:
            return False
        if self._owners:
            uid, gid = self._owners.translate(status)
            os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        times = (status.st_mtime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
        return False

    def _file(self, source: int, target: int, name: bytes, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode) & self._mode_mask
        reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
        try:
            writer = os.open(name, _CREATE, mode & 0o777, dir_fd=target)
            try:
                _copy_data(reader, writer, status)
                if self._owners:
                    os.fchown(writer, *self._owners.translate(status))
                if mode & 0o7000:
                    os.fchmod(writer, mode)
                self._copy_xattrs(reader, writer)
                os.utime(writer, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _copy_xattrs(self, source: int, target: int) -> None:
        for name in _listxattr(source):
            try:
                value = os.getxattr(source, name)
            except OSError as error:
                if error.errno == errno.EOVERFLOW:
                    continue  # a capability for root of a namespace that is not ours
                raise
            if name == _CAPABILITY:
                if not self._owners:
                    continue
                # Without its root id: the kernel adds that of this namespace.
                value = value[:3] + b"\x02" + value[4:20]
            elif not name.startswith("user."):
                continue
            os.setxattr(target, name, value)


def _listxattr(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _copy_data(reader: int, writer: int, status: os.stat_result) -> None:
    """Copy a file's contents, block by block shared if possible, and its holes as holes."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        _copy_range(reader, writer, 0, size)
        return
    os.ftruncate(writer, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        position = os.lseek(reader, start, os.SEEK_HOLE)
        _copy_range(reader, writer, start, position - start)


def _copy_range(reader: int, writer: int, start: int, count: int) -> None:
    os.lseek(reader, start, os.SEEK_SET)
    os.lseek(writer, start, os.SEEK_SET)
    while count > 0:
        try:
            copied = os.copy_file_range(reader, writer, count)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            copied = os.sendfile(writer, reader, None, count)
        if not copied:
            return  # truncated meanwhile
        count -= copied
