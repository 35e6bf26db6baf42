"""The changes in a writable layer: for `diff`, `commit` and the steps of a build.

The writable layer is walked. Each name in it is looked up in the layers below as the driver shows
them: from the top, until a whiteout or an opaque directory hides the rest. So the changes are the
same for every driver:

    A   it is not below            C   it is, and was changed; also a directory on the way to it
    D   it was deleted; of a deleted directory only the directory itself is named

Both forms of a whiteout are known (character device 0:0, `.wh.NAME`), and all marks of an opaque
directory. The driver copy keeps whole roots instead: there an unchanged file is not a change, and
what the layers have and the root does not have was deleted.

What is covered by a mount (volumes, /dev, /proc, /etc/hosts…) is left out, and so are directories
that were made only as mount points.

The walk runs in a user namespace with the container's map, on the storage and not in the
container's root. A running container goes on meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.image.layer import owners, xattrs
from rootless.image.layer.lookup import (
    OPAQUE_MARKER,
    OPAQUE_XATTR,
    WHITEOUT_PREFIX,
    is_whiteout,
)
from rootless.linux.openat2 import BENEATH, openat2
from rootless.linux.walk import Entry, open_file, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from rootless.rootfs.stored import Part

    Found = tuple[os.stat_result, int]

ADDED, CHANGED, DELETED = "A", "C", "D"
OPAQUE_XATTRS = (OPAQUE_XATTR, b"user.fuseoverlayfs.opaque")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 1 << 20


class Change:
    """One line of `diff`.

    Attributes:
        kind: ADDED, CHANGED or DELETED. path: in the container, without a leading slash; b"" for
            the root, if its mode or owner was changed.
        entry: the file in the writable layer; None for what was deleted.
    """

    __slots__ = ("entry", "kind", "path")

    def __init__(self, kind: str, path: bytes, entry: Entry | None) -> None:
        self.kind = kind
        self.path = path
        self.entry = entry


class _Level:
    """A directory on the way.

    Attributes:
        kind: the kind of change to report once something in it has changed; "" once reported.
        opaque: nothing of the layers shows through.
        below, stacks: what the layers have in it, and which of them each directory is from.
        touched, touched_stacks: the same of the layers that have what was changed.
    """

    __slots__ = ("below", "entry", "kind", "opaque", "stacks", "touched", "touched_stacks")

    def __init__(self, entry: Entry, kind: str, opaque: bool) -> None:
        self.entry = entry
        self.kind = kind
        self.opaque = opaque
        self.below: dict[bytes, Found] = {}
        self.stacks: dict[bytes, list[int]] = {}
        self.touched: dict[bytes, Found] = {}
        self.touched_stacks: dict[bytes, list[int]] = {}


class Below:
    """The layers under a writable one."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._paths = [*reversed(layers)]
        self._fds: dict[int, int] = {}

    def close(self) -> None:
        """Close the layers."""
        for fd in self._fds.values():
            os.close(fd)

    def _fd(self, index: int) -> int:
        """Return the descriptor of a layer, which is opened when something is looked up in it."""
        fd = self._fds.get(index)
        if fd is None:
            fd = self._fds[index] = os.open(self._paths[index], _DIRECTORY | os.O_CLOEXEC)
        return fd

    def _root(self) -> list[int]:
        """Return which layers show through at the root."""
        stack = []
        for index in range(len(self._paths)):
            stack.append(index)
            if is_opaque(self._fd(index)):
                break
        return stack

    def root_status(self) -> os.stat_result | None:
        """Return what the root directory is below; None: there are no layers."""
        return os.fstat(self._fd(0)) if self._paths else None

    def list(
        self, path: bytes, stack: Sequence[int] | None, wanted: Collection[bytes] | None
    ) -> tuple[dict[bytes, Found], dict[bytes, list[int]]]:
        """Return what is below in a directory, and which layers show through its directories.

        Args:
            stack: the layers that show through at `path`; None: it is the root.
            wanted: names to look for; None: all.
        """
        found: dict[bytes, Found] = {}
        stacks: dict[bytes, list[int]] = {}
        done: set[bytes] = set()
        if wanted is not None and not wanted:
            return found, stacks
        for index in self._root() if stack is None else stack:
            fd = openat2(self._fd(index), path or b".", _DIRECTORY, resolve=BENEATH)
            try:
                names = set(map(os.fsencode, os.listdir(fd)))
                hidden = {
                    name[len(WHITEOUT_PREFIX) :] for name in names if name[:4] == WHITEOUT_PREFIX
                }
                names = {name for name in names if name[:4] != WHITEOUT_PREFIX}
                for name in (names if wanted is None else names.intersection(wanted)) - done:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if is_whiteout(status):
                        done.add(name)
                    elif not stat.S_ISDIR(status.st_mode):
                        found.setdefault(name, (status, index))
                        done.add(name)
                    else:
                        found.setdefault(name, (status, index))
                        stacks.setdefault(name, []).append(index)
                        if _is_opaque_child(fd, name):
                            done.add(name)
                done |= hidden
            finally:
                os.close(fd)
        return found, stacks

    def open(self, path: bytes, index: int) -> int:
        """Open a regular file of one layer."""
        parent, _, name = path.rpartition(b"/")
        fd = openat2(self._fd(index), parent or b".", _DIRECTORY, resolve=BENEATH)
        try:
            return open_file(fd, name)
        finally:
            os.close(fd)

    def link(self, path: bytes, index: int) -> bytes:
        """Return where a link of one layer points to."""
        parent, _, name = path.rpartition(b"/")
        fd = openat2(self._fd(index), parent or b".", _DIRECTORY, resolve=BENEATH)
        try:
            return os.readlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def changes(
    part: Part,
    hidden: Collection[bytes],
    seen: Callable[[Entry, bool], object] = lambda entry, is_change: None,
) -> Iterator[Change]:
    """Yield what was changed in one part of a root; a directory before what is in it.

    Args:
        hidden: paths that are mounts, without the slash in front.
        seen: is told of each directory when all that is in it has been met, and of each file
            that is no change. Whether it is a change, as the second argument, is certain then.
            It may delete what is none.
    """
    below, touched = Below(part.layers), Below(part.touched)
    upper = os.open(part.upper, _DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _Finder(part, below, touched, hidden, seen).run(upper)
    finally:
        os.close(upper)
        touched.close()
        below.close()


class _Finder:
    """The walk through one part."""

    def __init__(
        self,
        part: Part,
        below: Below,
        touched: Below,
        hidden: Collection[bytes],
        seen: Callable[[Entry, bool], object],
    ) -> None:
        self.part = part
        self.below = below
        self.touched = touched
        self.hidden = hidden
        self.seen = seen
        # Directories that may have been made only so that something could be mounted in them.
        self.ways = {
            path[:index] for path in hidden for index, byte in enumerate(path) if byte == 0x2F
        }
        self.way: list[_Level] = []

    def run(self, upper: int) -> Iterator[Change]:
        for entry in walk(upper):
            path = self._path(entry.path)
            if path in self.hidden and entry.path:
                entry.skip = True
                if entry.leaving or entry.fd < 0:
                    self.seen(entry, False)
            elif entry.leaving:
                self.seen(entry, not self.way.pop().kind)
            elif entry.path:
                yield from self._look(entry, path)
            else:
                before = self.below.root_status()
                if not path and before is not None and not self._is_alike(entry, before):
                    yield Change(CHANGED, path, entry)
                yield from self._enter(entry, "", None, None)

    def _path(self, path: bytes) -> bytes:
        prefix = self.part.prefix
        return prefix + b"/" + path if prefix and path else prefix or path

    def _look(self, entry: Entry, path: bytes) -> Iterator[Change]:
        here = self.way[-1]
        name, status = entry.name, entry.status
        if entry.fd < 0 and self.part.marks and name.startswith(WHITEOUT_PREFIX):
            victim = name[len(WHITEOUT_PREFIX) :]
            if victim in here.below:
                yield from self._tell(Change(DELETED, path[: -len(name)] + victim, None))
            return
        before = here.below.get(name)
        if is_whiteout(status):
            if before is not None:
                yield from self._tell(Change(DELETED, path, None))
            else:
                self.seen(entry, False)
            return
        kind = ADDED if before is None else CHANGED
        if entry.fd < 0:
            if before is None or not self._is_same(entry, before):
                yield from self._tell(Change(kind, path, entry))
            return
        stack = here.stacks.get(name, [])
        if stack and before is not None and self._is_alike(entry, before[0]):
            pass  # told of only if something in it was changed
        elif before is None and path in self.ways:
            pass
        else:
            yield from self._tell(Change(kind, path, entry))
            kind = ""
        yield from self._enter(entry, kind, stack, here.touched_stacks.get(name, []))

    def _enter(
        self, entry: Entry, kind: str, stack: list[int] | None, touched: list[int] | None
    ) -> Iterator[Change]:
        """Go into a directory; what was in it below and is hidden now was deleted."""
        opaque = self.part.whole or is_opaque(entry.fd) or any(way.opaque for way in self.way[-1:])
        names = {os.fsencode(name) for name in os.listdir(entry.fd)}
        level = _Level(entry, kind, opaque)
        wanted = None
        if not opaque:
            cut = len(WHITEOUT_PREFIX)
            wanted = names | {name[cut:] for name in names if name[:cut] == WHITEOUT_PREFIX}
        level.below, level.stacks = self.below.list(entry.path, stack, wanted)
        level.touched, level.touched_stacks = self.touched.list(entry.path, touched, None)
        self.way.append(level)
        if opaque:
            base = self._path(entry.path)
            for name in sorted(level.below.keys() - names):
                path = base + b"/" + name if base else name
                if path not in self.hidden:
                    yield from self._tell(Change(DELETED, path, None))

    def _tell(self, change: Change) -> Iterator[Change]:
        """Yield a change, and before it the directories on the way that were not yet told of."""
        for level in self.way:
            if level.kind:
                yield Change(level.kind, self._path(level.entry.path), level.entry)
                level.kind = ""
        yield change

    def _is_alike(self, entry: Entry, before: os.stat_result) -> bool:
        """Tell whether a directory has the attributes that it has below."""
        return _attributes(before) == _attributes(entry.status) and owners.read(entry.fd) is None

    def _is_same(self, entry: Entry, before: Found) -> bool:
        """Tell whether a file is as it was below; in a writable layer it never is."""
        old, new = before[0], entry.status
        if not self.part.whole:
            return False
        if self.part.touched:
            return entry.name not in self.way[-1].touched
        if (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid):
            return False
        if stat.S_ISLNK(new.st_mode):
            return entry.link() == self.below.link(entry.path, before[1])
        if not stat.S_ISREG(new.st_mode):
            return old.st_rdev == new.st_rdev
        if (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
            return False
        # Times can be set back, that of the last change cannot; it counts in ticks of the clock.
        if new.st_ctime_ns < self.part.since:
            return True
        return self._same_contents(entry, before[1])

    def _same_contents(self, entry: Entry, index: int) -> bool:
        """Tell whether a file is as it was below in all that its status does not tell."""
        new_fd, old_fd = entry.open(), -1
        try:
            old_fd = self.below.open(entry.path, index)
            if new_fd < 0 or old_fd < 0 or owners.read(new_fd) is not None:
                return False
            if xattrs.read(new_fd) != xattrs.read(old_fd):
                return False
            while True:
                old, new = os.read(old_fd, _CHUNK), os.read(new_fd, _CHUNK)
                if old != new:
                    return False
                if not new:
                    return True
        finally:
            for fd in (new_fd, old_fd):
                if fd >= 0:
                    os.close(fd)


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def is_opaque(fd: int) -> bool:
    """Tell whether a directory hides what the layers below have in it, in any driver's form."""
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    try:
        os.stat(OPAQUE_MARKER, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_opaque_child(dir_fd: int, name: bytes) -> bool:
    fd = openat2(dir_fd, name, _DIRECTORY, resolve=BENEATH)
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)
