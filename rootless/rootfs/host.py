"""The image `host:`: the host's own programs under a private copy-on-write view.

Nothing is downloaded. The kernel refuses `/` itself as a lower layer, because of the mounts below
it, but accepts /usr, /etc, /opt and /var one by one. So the root is a small directory of its own,
and each of these is an overlay mounted in it. Everything else (home directories, /root, /srv, /mnt,
/run, data) is absent or empty: there is a list of what is shown, and none of what is hidden.

Theory of operation. Host uid 0 has no mapping in the container, so files of the host's root belong
to `nobody`, and no process may write to their directories. So there is a *skeleton* between the
host's directory and the writable layer: empty directories of the same names that belong to the
container's root. An overlay shows a directory with the attributes of its topmost layer. So `touch
/etc/x` works, and an existing file can be replaced or deleted, but not changed in place. A
directory that must not be visible is opaque in the skeleton, so that it appears empty.

Building the skeleton takes about 100 ms. It is built once, kept in the storage, and named after
what it was made from. A run holds a shared lock on it; a process that builds a new one removes
those without a lock. The skeleton also contains the results of the probes, as a plan: which
directories overlayfs accepts, and of which it accepts only the children, because of mounts below
them.
"""

from __future__ import annotations

import json
import os
import stat

from rootless import paths
from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as mounts
from rootless.rootfs import DRIVERS, Mounted, check_fatal, overlay, skeleton, unmount
from rootless.rootfs import mount as mount_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import IdMap

_ATTRIBUTES = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV


def mount(
    workspace: str,
    idmap: IdMap,
    cache: str | None = None,
    *,
    exclude: Sequence[str] = (),
    driver: str | None = None,
    volatile: bool = False,
) -> Mounted:
    """Compose the host's programs into a root directory at `workspace`/merged.

    Args:
        workspace: as for `rootless.rootfs.mount`.
        cache: where skeletons are kept; a private directory in the storage.
        exclude: more absolute paths that shall appear empty. The home directory and the
            storage always do.
        driver: use this one only; "copy" copies the root directory, and the host's directories
            are read-only.

    Raises:
        RlessError: no driver can mount the root directory, or the disk is full.
    """
    cache = cache or f"{paths.storage_root()}/host"
    hidden = _hidden(exclude)
    base, lock_fd = skeleton_of(cache, idmap, exclude)
    try:
        with open(f"{base}/plan.json", encoding="utf-8") as file:
            plan = json.load(file)
        mounted = mount_layers([f"{base}/root"], workspace, idmap, driver=driver, volatile=volatile)
        mounted.lock_fds = [lock_fd]
        lock_fd = -1
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)
    try:
        union = DRIVERS[DRIVERS.index(mounted.driver) :] if driver is None else (driver,)
        view = _View(mounted, workspace, base, hidden, union, volatile)
        for path in plan["overlay"]:
            view.show(path)
        for path in plan["bind"]:
            view.bind(path)
    except BaseException as error:
        unmount(mounted)
        if isinstance(error, RlessError):
            check_fatal(error, ())
        raise
    mounted.driver = "host"
    mounted.options = "; ".join(f"{name}: {' '.join(found)}" for name, found in view.used.items())
    mounted.layers = [f"{base}/root", *(f"/{path}" for path in plan["overlay"])]
    mounted.why += plan["why"]
    return mounted


def skeleton_of(cache: str, idmap: IdMap, exclude: Sequence[str]) -> tuple[str, int]:
    """Return the skeleton that `mount` takes, and the lock on it; the arguments are the same."""
    return skeleton.acquire(cache, idmap, _hidden(exclude))


def _hidden(exclude: Sequence[str]) -> list[str]:
    """Return the paths that must appear empty, without links in them."""
    private = [*exclude, os.environ.get("HOME", ""), paths.storage_root()]
    return sorted({os.path.realpath(path) for path in private if path.startswith("/")} - {"/"})


class _View:
    """The root directory in the making: the host's directories are mounted into it.

    Attributes:
        used: driver -> the directories that it shows, for `Mounted.options`.
        union: the drivers to try: what has refused the root directory is not tried again for
            each of its parts.
    """

    __slots__ = ("base", "hidden", "mounted", "squash", "union", "used", "volatile", "workspace")

    def __init__(
        self,
        mounted: Mounted,
        workspace: str,
        base: str,
        hidden: Sequence[str],
        union: Sequence[str],
        volatile: bool,
    ) -> None:
        self.mounted = mounted
        self.workspace = f"{workspace}/host"
        self.base = base
        self.hidden = hidden
        self.volatile = volatile
        self.union = union
        self.used: dict[str, list[str]] = {}
        status = os.stat(f"{base}/root")
        self.squash = (status.st_uid, status.st_gid)
        if mounted.driver == "copy":
            # A plain directory; as a mount, one umount detaches it with all that is in it.
            mounts.mount(mounted.path, mounted.path, None, mounts.MS_BIND)
        else:
            _mkdir(self.workspace)

    def show(self, path: str) -> None:
        """Show the host's directory `path` (relative to /): writable, else read-only.

        Raises:
            RlessError: the disk is full; all else is a reason to take the next driver.
        """
        refused: list[str] = []
        for driver in self.union:
            if driver == "copy":
                break  # of /usr, for each container?
            try:
                self._union(path, driver)
            except RlessError as error:
                check_fatal(error, ())
                refused.append(f"{driver}: {error.message}")
                continue
            if refused:
                self.mounted.why.append(f"/{path}: {driver}, as {'; '.join(refused)}")
            self.used.setdefault(driver, []).append(f"/{path}")
            return
        why = "; ".join(refused) or "no union file system works here"
        self.mounted.why.append(f"/{path}: read-only, as {why}")
        self.bind(path)

    def _union(self, path: str, driver: str) -> None:
        target = f"{self.mounted.path}/{path}"
        own = f"{self.workspace}/{path.replace('/', '%')}"
        layers = [f"/{path}", f"{self.base}/dirs/{path}"]
        _mkdir(own)
        overlay.prepare(own, layers[1], mount_point=False)
        if driver == "overlay":
            overlay.mount(layers, own, target, volatile=self.volatile, flags=mounts.MS_NOSUID)
            return
        from rootless.rootfs import fuse_overlayfs

        _, pid = fuse_overlayfs.mount(
            layers,
            own,
            target,
            volatile=self.volatile,
            squash=self.squash,
            flags=mounts.MS_NOSUID,
        )
        self.mounted.helper_pids.append(pid)

    def bind(self, path: str) -> None:
        """Bind the host's `path` read-only, with all that is mounted below it."""
        root = self.mounted.path
        _attach(f"/{path}", f"{root}/{path}", recursive=True)
        self.used.setdefault("bind,ro", []).append(f"/{path}")
        for private in (*self.hidden, *(f"/{name}" for name in skeleton.EMPTY)):
            # What is a link there is covered by its own name.
            if private.startswith(f"/{path}/") and _is_directory(f"{root}{private}"):
                _attach(f"{self.base}/empty", f"{root}{private}", recursive=False)


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # of the container's earlier start
    except OSError as error:
        raise SyscallError(f"mkdir({path})", error.errno or 0) from error


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _attach(source: str, target: str, recursive: bool) -> None:
    tree_fd = mounts.open_tree(-1, source, recursive=recursive)
    try:
        mounts.mount_setattr(tree_fd, set_=_ATTRIBUTES, recursive=True)
        target_fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mounts.move_mount(tree_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(tree_fd)
