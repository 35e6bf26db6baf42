"""A layer from its blob to its place in the store; `parallel_unpack` makes several at once.

A child makes layers. It is root of a user namespace with the map of the image's containers, so the
owners on disk are right and no container has to change them again. It works in a scratch directory.
A layer appears in the store by one rename, after both its digests were verified over every byte.
The child does the rename too: a user cannot move a directory that belongs to a subordinate id.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, escape
from rootless.image.layer.decompress import BlobStream
from rootless.image.layer.lookup import OPAQUE_MARKER, WHITEOUT_PREFIX, is_opaque
from rootless.image.layer.tar_reader import REGULAR, TarReader
from rootless.image.layer.tarsplit import has_split
from rootless.image.model import limits
from rootless.image.store.ownership import own_ids
from rootless.image.store.records import has_layer
from rootless.image.store.staging import raise_descriptor_limit
from rootless.linux import prctl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rootless.image.layer.parallel_unpack import Arrival
    from rootless.linux.idmap import IdMap

_USER_FILES = ("passwd", "group")


class LayerBlob:
    """The place of one layer's bytes.

    Attributes:
        digest: of the blob as it is stored; None: the archive does not have it.
        size: bytes of the blob. diff_id: digest of its tar. chain: its chain id.
        fd, offset: the file that it is in; fd is -1 until it was fetched.
        arrival: set while the file is still growing.
    """

    __slots__ = ("arrival", "chain", "diff_id", "digest", "fd", "offset", "size")

    def __init__(self, digest: str | None, size: int, diff_id: str, chain: str) -> None:
        self.digest = digest
        self.size = size
        self.diff_id = diff_id
        self.chain = chain
        self.fd = -1
        self.offset = 0
        self.arrival: Arrival | None = None

    @property
    def short(self) -> str:
        """Return the 12 digits that progress and errors name it by."""
        return (self.digest or self.diff_id)[7:19]


def is_complete(root: str, key: str, chain: str) -> bool:
    """Tell whether a layer is there, with the record of its tar."""
    return has_layer(root, key, chain) and has_split(root, chain)


class Caller:
    """The process that started the child: its pid, and its ids as seen in the child's namespace."""

    __slots__ = ("ids", "pid")

    def __init__(self, idmap: IdMap) -> None:
        self.pid = os.getpid()
        self.ids = own_ids(idmap)

    def bind_child(self) -> None:
        """Make the child end with its parent, and make files with exactly the modes it asks."""
        prctl.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(70)
        os.umask(0)
        raise_descriptor_limit()


def place_split(scratch_fd: int, name: str, final: str, owner: tuple[int, int]) -> None:
    """Move the record of a tar to its place, readable by the caller outside."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=scratch_fd)
    try:
        os.fchmod(fd, 0o644)
        os.fchown(fd, *owner)
    finally:
        os.close(fd)
    os.rename(name, final, src_dir_fd=scratch_fd)


def move_into_place(scratch_fd: int, name: str, final: str) -> None:
    """Rename a finished layer to its place; if somebody was faster, theirs is as good."""
    try:
        os.rename(name, final, src_dir_fd=scratch_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


# -- the users of an image -------------------------------------------------------------------


def user_files(root_fd: int) -> dict[str, str | None]:
    """Return what a layer says about /etc/passwd and /etc/group.

    A missing key means that the layers below tell; None that there is no (usable) file. Only
    regular files count: a link could point anywhere once the host follows it.
    """
    found: dict[str, str | None] = {}
    try:
        etc = os.open("etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    except FileNotFoundError:
        if _exists(root_fd, WHITEOUT_PREFIX + b"etc") or is_opaque(root_fd):
            return dict.fromkeys(_USER_FILES)
        return found
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return dict.fromkeys(_USER_FILES)
        raise
    try:
        hidden = is_opaque(etc) or is_opaque(root_fd)
        for name in _USER_FILES:
            if _exists(etc, name.encode()):
                found[name] = _read_user_file(etc, name)
            elif hidden or _exists(etc, WHITEOUT_PREFIX + name.encode()):
                found[name] = None
    finally:
        os.close(etc)
    return found


def _read_user_file(etc_fd: int, name: str) -> str | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=etc_fd)
    except OSError:
        return None  # a link, a whiteout
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limits.USER_FILE_BYTES:
            return None
        data = b""
        while chunk := os.read(fd, limits.USER_FILE_BYTES):
            data += chunk
        return data.decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _exists(dir_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def merge_users(metas: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the user files of an image from the meta records of its layers, bottom first."""
    users: dict[str, str] = {}
    for name in _USER_FILES:
        for meta in reversed(metas):
            if name in meta["users"]:
                users[name] = meta["users"][name] or ""
                break
    return users


def whiteouts_of(metas: Iterable[dict[str, Any]]) -> str:
    """Return the form of whiteouts that a driver must understand for some layers.

    "aufs" drivers understand both.
    """
    return "aufs" if any(meta["whiteouts"] == "aufs" for meta in metas) else "overlay"


def scan_users(
    layers: Sequence[LayerBlob], known: Sequence[dict[str, Any] | None]
) -> dict[str, str]:
    """Find the user files of an image before it is unpacked, because its map depends on them.

    Reads fetched layers from the top until one has the file. What is found here decides the
    map only; the record is made from the files as they were unpacked.

    Args:
        known: the meta record of each layer, None where the layer has to be read.
    """
    wanted = dict.fromkeys(_USER_FILES, "")
    missing = set(_USER_FILES)
    for layer, meta in zip(reversed(layers), reversed(known), strict=True):
        if not missing:
            break
        found = meta["users"] if meta is not None else _scan_layer(layer)
        for name in missing & found.keys():
            wanted[name] = found[name] or ""
        missing -= found.keys()
    return wanted


def _scan_layer(layer: LayerBlob) -> dict[str, str | None]:
    what = f"layer {layer.short}"
    found: dict[str, str | None] = {}
    reader = TarReader(BlobStream(layer.fd, layer.offset, layer.size, what), what)
    hidden = False
    for member in reader:
        if reader.offset > limits.LAYER_BYTES:
            raise RlessError(f"{what} unpacks to more than {limits.LAYER_BYTES} bytes")
        path = member.name.removeprefix(b"./").strip(b"/")
        if not path.startswith((b"etc", WHITEOUT_PREFIX)):
            continue
        if path in (OPAQUE_MARKER, b".wh.etc", b"etc/" + OPAQUE_MARKER):
            hidden = True
        name = path.removeprefix(b"etc/").removeprefix(WHITEOUT_PREFIX).decode("latin-1")
        if name not in _USER_FILES or not path.startswith(b"etc/"):
            continue
        is_file = member.kind == REGULAR and member.sparse is None
        if is_file and member.size <= limits.USER_FILE_BYTES and b".wh." not in path:
            found[name] = reader.read(member.size).decode("utf-8", "surrogateescape")
        else:
            found[name] = None
    if hidden:
        for name in _USER_FILES:
            found.setdefault(name, None)
    return found


def describe(meta: dict[str, Any]) -> str | None:
    """Return one line about what a layer lost on its way to disk; None: nothing."""
    lost = []
    if count := meta["skipped_devices"]:
        nodes = "device node" if count == 1 else "device nodes"
        lost.append(f"{count} {nodes} (rootless users cannot make them)")
    if count := meta["lost_xattrs"]:
        lost.append(f"{count} extended attribute{'s' * (count > 1)}")
    return f"layer {escape(meta['diff_id'])[7:19]}: left out {' and '.join(lost)}" if lost else None
