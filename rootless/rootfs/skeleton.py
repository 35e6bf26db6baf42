"""The skeleton of the image `host:`: the layer between the host's directories and the container.

A skeleton is a directory in the storage, for one id map and one state of the host:

    root/       the root directory: links as bin -> usr/bin, mount points, empty directories
    dirs/       for each overlay, the host's directories, empty, owned by container root
    empty/      an empty directory, to cover what must not be seen
    plan.json   {"overlay": [...], "bind": [...], "why": [...]}, paths relative to /

It is made under a temporary name and then renamed, so it is complete or absent.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as mounts
from rootless.linux import tree
from rootless.linux.locks import lock
from rootless.rootfs import overlay
from rootless.rootfs.entries import make_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from rootless.linux.idmap import IdMap

_FORMAT = 2  # of a skeleton; another one makes another name
# Directories with programs and what they need; the first six are links on most systems.
_SHOWN = "bin sbin lib lib32 lib64 libx32 etc opt usr var nix gnu".split()
# Whose change tells of directories that came or went.
_STAMPED = ("/", "/etc", "/opt", "/usr", "/usr/local", "/usr/bin", "/usr/lib", "/var", "/var/lib")
_ROOT = {
    "dev": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
}
# What a user may read of these is the user's own: mail, crash reports, homes of ostree systems.
EMPTY = {
    "var/tmp": 0o1777,
    "var/mail": 0o1777,
    "var/spool/mail": 0o1777,
    "var/crash": 0o1777,
    "var/lib/systemd/coredump": 0o755,
    "var/log/journal": 0o755,
    "var/home": 0o755,
    "var/roothome": 0o700,
}
# The engine's own files are mounted over these: never links, and not the host's text.
_ENGINE_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
# How many directories are made of each part, breadth first, and what is never worth it.
_BUDGET = (("etc", 600), ("var", 600), ("usr/local", 300), ("opt", 150), ("usr", 600))
_PRUNED = {
    "usr/include",
    "usr/lib/modules",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
    "usr/src",
}
# For the directories of one part to be read: /opt may be on a slow network file system. What it
# takes to make them in the storage does not count: that only says how busy the machine is.
_SECONDS = 2.0
_MOST_ENTRIES = 256  # of a directory that is taken apart
_MOST_DEPTH = 4
_SMALL_FILE = 64 << 10


def acquire(cache: str, idmap: IdMap, hidden: Sequence[str]) -> tuple[str, int]:
    """Return the skeleton for this map and state of the host, made if absent, and a lock on it.

    Args:
        hidden: absolute paths, without links in them, that shall appear empty.

    Returns:
        Its path and a descriptor; the skeleton stays while that is open.

    Raises:
        SyscallError: the file system refused something (ENOSPC).
    """
    name = f"{idmap.key}-{_stamp(hidden):x}"
    path = f"{cache}/{name}"
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                make_entry(
                    cache,
                    name,
                    lambda base: _Builder(base, hidden).build(),
                    lambda cache_fd: _remove_unused(cache_fd, idmap.key),
                )
            except OSError as error:
                call = f"make the skeleton of the host in {cache}"
                raise SyscallError(call, error.errno or 0) from error
            continue
        lock(fd, shared=True)
        if os.path.exists(f"{path}/plan.json"):
            return path, fd
        os.close(fd)  # it was removed between the two calls


def _stamp(hidden: Sequence[str]) -> int:
    """Return a number that changes with the host's directories and with what is hidden."""
    facts = [_FORMAT]
    for path in _STAMPED:
        try:
            status = os.stat(path)
        except OSError:
            continue
        facts += (status.st_dev, status.st_ino, status.st_mtime_ns)
    for path in hidden:
        facts.append(int.from_bytes(os.fsencode(path), "big"))
    return hash(tuple(facts)) & 0xFFFFFFFFFFFFFFFF  # of integers: the same in each process


def _remove_unused(cache_fd: int, key: str) -> None:
    """Remove skeletons of earlier states of the host, and one whose making was cut short."""
    for name in os.listdir(cache_fd):
        if not name.startswith((f"{key}-", f".{key}-")):
            continue  # of another map: the owners of its files have no ids here
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=cache_fd)
        try:
            if not lock(fd, wait=False):
                continue  # a container uses it
            try:
                os.unlink("plan.json", dir_fd=fd)  # from here on nobody takes it
            except FileNotFoundError:
                pass
            tree.remove_tree(cache_fd, name)
        except (OSError, RlessError):
            pass  # the next start tries again
        finally:
            os.close(fd)


class _Builder:
    """One skeleton in the making, at `base`."""

    __slots__ = ("base", "hidden", "made", "owned", "plan", "reading", "tries")

    def __init__(self, base: str, hidden: Sequence[str]) -> None:
        self.base = base
        self.hidden = {path[1:] for path in hidden}
        self.owned = os.geteuid() == 0 and os.getegid() == 0  # what we make is root's already
        self.made: set[str] = set()
        self.reading = 0.0  # seconds that the host's directories have taken to be read
        self.plan: dict[str, list[str]] = {"overlay": [], "bind": [], "why": []}
        self.tries = False

    def build(self) -> None:
        for name in ("root", "dirs", "empty", "try", "try/lower"):
            self._mkdir(f"{self.base}/{name}", 0o755)
        overlay.prepare(f"{self.base}/try", None)
        # Where overlayfs doesn't work at all, nothing is to be learned about single directories.
        self.tries = self._refusal(f"{self.base}/empty") is None
        for name, mode in _ROOT.items():
            self._mkdir(f"{self.base}/root/{name}", mode)
        for name in _SHOWN:
            self._show(name)
        self._mirror()
        base_fd = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            tree.remove_tree(base_fd, "try")
        finally:
            os.close(base_fd)
        with open(f"{self.base}/plan.json", "w", encoding="utf-8") as file:
            json.dump(self.plan, file)

    # root/ and the plan

    def _show(self, name: str) -> None:
        """Put one of the directories of / into the root."""
        try:
            mode = os.lstat(f"/{name}").st_mode
        except OSError:
            return
        if stat.S_ISLNK(mode):
            self._symlink(name)
        elif stat.S_ISDIR(mode):
            self._plan(name, 0)

    def _symlink(self, path: str) -> None:
        link = f"{self.base}/root/{path}"
        os.symlink(os.readlink(f"/{path}"), link)
        if not self.owned:
            _own(link)

    def _plan(self, path: str, depth: int) -> None:
        """Decide how the host's directory `path` is shown: overlay, in parts, or bound."""
        target = f"{self.base}/root/{path}"
        if path in self.hidden or path in EMPTY:
            self._mkdir(target, EMPTY.get(path, 0o755))
            return
        mode = stat.S_IMODE(os.lstat(f"/{path}").st_mode)
        if depth and not _is_for_everybody(mode):
            self._mkdir(target, mode | 0o700)
            return
        self._mkdir(target, 0o755)
        why = self._refusal(f"/{path}") if self.tries else None
        if why is None:
            self.plan["overlay"].append(path)
            return
        entries = self._entries(path)
        if entries is None or depth >= _MOST_DEPTH or len(entries) > _MOST_ENTRIES:
            self.plan["bind"].append(path)
            self.plan["why"].append(f"/{path}: read-only, as overlay refused: {why}")
            return
        self.plan["why"].append(f"/{path}: shown in parts, as overlay refused: {why}")
        for entry in entries:
            child = f"{path}/{entry.name}"
            if child in _ENGINE_FILES:
                self._write(f"{self.base}/root/{child}", b"", 0o644)
            elif entry.is_symlink():
                self._symlink(child)
            elif entry.is_dir():
                self._plan(child, depth + 1)
            elif entry.is_file():
                self._copy_small(child)

    def _refusal(self, path: str) -> str | None:
        """Try an overlay over `path`; return what the kernel said, None if it mounted.

        With two lower layers, as it will be: the kernel refuses the two (ELOOP) where the storage
        is below `path`.
        """
        target = f"{self.base}/try/merged"
        try:
            overlay.mount([path, f"{self.base}/try/lower"], f"{self.base}/try", target)
        except RlessError as error:
            return error.message
        mounts.umount(target)
        return None

    def _entries(self, path: str) -> list[os.DirEntry[str]] | None:
        began = time.monotonic()
        try:
            with os.scandir(f"/{path}") as entries:
                return list(entries)
        except OSError:
            return None
        finally:
            self.reading += time.monotonic() - began

    def _copy_small(self, path: str) -> None:
        """Copy a file of a directory that is shown in parts; a large one is bound instead."""
        target = f"{self.base}/root/{path}"
        try:
            with open(f"/{path}", "rb") as file:
                content = file.read(_SMALL_FILE + 1)
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o777
        except OSError:
            return
        large = len(content) > _SMALL_FILE
        self._write(target, b"" if large else content, mode)
        if large:
            self.plan["bind"].append(path)

    # dirs/

    def _mirror(self) -> None:
        """Make the directories again for each overlay of the plan, and the opaque ones."""
        tops = self.plan["overlay"]
        for path in tops:
            self._make_dirs(path)
        empty = {*EMPTY, *self.hidden}
        for path in sorted(empty):
            # Below another one it isn't there at all.
            if _is_below(path, tops) and not _is_below(path, empty) and os.path.isdir(f"/{path}"):
                self._make_opaque(path, EMPTY.get(path, 0o755))
        for path in _ENGINE_FILES:
            if _is_below(path, tops):
                self._make_dirs(os.path.dirname(path))
                self._write(f"{self.base}/dirs/{path}", b"", 0o644)
        for part, budget in _BUDGET:
            starts = [path for path in tops if path == part or path.startswith(f"{part}/")]
            if not starts and _is_below(part, tops):
                starts = [part]
            if not self._mirror_part(starts, budget):
                self.plan["why"].append(
                    f"/{part}: not all of its directories can be written to: too many"
                )

    def _mirror_part(self, starts: list[str], budget: int) -> bool:
        """Make up to `budget` directories, breadth first; False: there are more."""
        level = starts
        before = self.reading
        while level:
            following: list[str] = []
            for parent in level:
                if budget <= 0 or self.reading - before > _SECONDS:
                    return False
                for child, mode in self._directories(parent):
                    budget -= 1
                    if child in EMPTY or child in self.hidden:
                        continue
                    if _is_for_everybody(mode):
                        self._make_dirs(child)
                        following.append(child)
                    else:
                        self._make_opaque(child, mode | 0o700)
            level = following
        return True

    def _directories(self, parent: str) -> Iterator[tuple[str, int]]:
        """Yield the directories in `parent` and the mode of each."""
        if parent in _PRUNED:
            return
        for entry in self._entries(parent) or ():
            if entry.is_dir(follow_symlinks=False):
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                except OSError:
                    continue
                yield f"{parent}/{entry.name}", stat.S_IMODE(mode)

    def _make_dirs(self, path: str) -> None:
        """Make `path` and its parents in dirs/, with the host's modes."""
        if path in self.made:
            return
        parent = os.path.dirname(path)
        if parent:
            self._make_dirs(parent)
        mode = stat.S_IMODE(os.stat(f"/{path}").st_mode)
        self._mkdir(f"{self.base}/dirs/{path}", mode)
        self.made.add(path)

    def _make_opaque(self, path: str, mode: int) -> None:
        target = f"{self.base}/dirs/{path}"
        if path not in self.made:
            self._make_dirs(os.path.dirname(path))
            self._mkdir(target, mode)
            self.made.add(path)
        try:
            os.setxattr(target, "user.overlay.opaque", b"y")
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            # Then the kernel's overlay doesn't work here either; fuse-overlayfs knows this.
            self._write(f"{target}/.wh..wh..opq", b"", 0o600)

    # Everything belongs to the container's root.

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)
        if not self.owned:
            _own(path)
        os.chmod(path, mode)

    def _write(self, path: str, content: bytes, mode: int) -> None:
        with open(path, "wb") as file:
            file.write(content)
        if not self.owned:
            _own(path)
        os.chmod(path, mode)


def _own(path: str) -> None:
    try:
        os.chown(path, 0, 0, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):  # 0 has no mapping: it stays ours
            raise


def _is_for_everybody(mode: int) -> bool:
    """Tell whether a directory is shown; what the user may see in others is the user's own."""
    return mode & 0o005 == 0o005


def _is_below(path: str, tops: Collection[str]) -> bool:
    return any(path.startswith(f"{top}/") for top in tops)
