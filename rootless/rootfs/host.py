"""The image `host:`: the host's own programs under a private, writable copy-on-write view.

Nothing is downloaded. The kernel refuses `/` itself as a lower layer, because of the mounts
below it, but takes /usr, /etc, /opt, /var one by one. So the root is a small directory of its
own, and each of those is an overlay mounted in it. All else (home directories, /root, /srv,
/mnt, /run, data) is absent or empty: a list of what is shown, never one of what is hidden.

Theory of operation. Files of the host's root belong to nobody in here, as host uid 0 has no
mapping, and nobody may write in a directory of nobody's. So between the host's directory and
the writable layer lies a *skeleton*: empty directories of the same names that belong to the
container's root. An overlay shows a directory with the attributes of its topmost layer, so
`touch /etc/x` works, and an old file can be replaced or deleted; it cannot be changed in place.
In the skeleton a directory that must not be seen is opaque, so it appears empty.

The skeleton costs some 100 ms. It is built once, kept in the storage, and named by what it was
made from. A run holds a shared lock on it; who builds a new one removes those that nobody
holds. What was tried is kept in it too, as a plan: which directories overlayfs takes, and which
it takes only the children of, because of mounts below them.
"""

from __future__ import annotations

import json
import os

from rootless import paths
from rootless.errors import RlessError
from rootless.linux import mount as mounts
from rootless.rootfs import Mounted, overlay, skeleton, unmount
from rootless.rootfs import mount as mount_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.idmap import IdMap

_ATTRIBUTES = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
_FLAGS = mounts.MS_NOSUID


def mount(
    workspace: str,
    idmap: IdMap,
    cache: str | None = None,
    *,
    exclude: Sequence[str] = (),
    volatile: bool = False,
) -> Mounted:
    """Compose the host's programs into a root directory at `workspace`/merged.

    Args:
        workspace: as for `rootless.rootfs.mount`.
        cache: where skeletons are kept; a private directory in the storage.
        exclude: more absolute paths that shall appear empty. The home directory and the
            storage always do.

    Raises:
        RlessError: no driver can mount the root directory, or the disk is full.
    """
    cache = cache or f"{paths.storage_root()}/host"
    hidden = _hidden(exclude)
    base, lock_fd = skeleton.acquire(cache, idmap, hidden)
    try:
        with open(f"{base}/plan.json", encoding="utf-8") as file:
            plan = json.load(file)
        mounted = mount_layers([f"{base}/root"], workspace, idmap, volatile=volatile)
        # One umount shall detach all, also where the root is a plain directory.
        if mounted.driver == "copy":
            mounts.mount(mounted.path, mounted.path, None, mounts.MS_BIND)
        mounted.lock_fd = lock_fd
        lock_fd = -1
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)
    root_driver = mounted.driver
    mounted.driver = "host"
    mounted.why += plan["why"]
    try:
        os.makedirs(f"{workspace}/host", 0o700, exist_ok=True)
        used: dict[str, list[str]] = {}
        for path in plan["overlay"]:
            kind = _mount_one(path, workspace, base, mounted, root_driver, volatile, hidden)
            used.setdefault(kind, []).append("/" + path)
        for path in plan["bind"]:
            _bind(path, mounted.path, base, hidden)
            used.setdefault("bind,ro", []).append("/" + path)
    except BaseException:
        unmount(mounted)
        raise
    mounted.options = "; ".join(f"{kind}: {' '.join(paths)}" for kind, paths in used.items())
    mounted.layers = [f"{base}/root", *(f"/{path}" for path in plan["overlay"])]
    return mounted


def _hidden(exclude: Sequence[str]) -> list[str]:
    """Return the paths that must appear empty, without links in them."""
    private = [*exclude, os.environ.get("HOME", ""), paths.storage_root()]
    return sorted({os.path.realpath(path) for path in private if path.startswith("/")} - {"/"})


def _mount_one(
    path: str,
    workspace: str,
    base: str,
    mounted: Mounted,
    root_driver: str,
    volatile: bool,
    hidden: Sequence[str],
) -> str:
    """Show the host's directory `path` (relative to /) in the root; return by which driver."""
    target = f"{mounted.path}/{path}"
    own = f"{workspace}/host/{path.replace('/', '%')}"
    layers = [f"/{path}", f"{base}/dirs/{path}"]
    refused = ""
    try:
        os.mkdir(own, 0o700)
    except FileExistsError:
        pass
    if root_driver == "overlay":
        try:
            _prepare(own, layers[1])
            overlay.mount(layers, own, target, volatile=volatile, flags=_FLAGS)
            return "overlay"
        except RlessError as error:
            refused = error.message
    if root_driver != "copy":
        from rootless.rootfs import fuse_overlayfs

        try:
            _prepare(own, layers[1])
            _, pid = fuse_overlayfs.mount(
                layers, own, target, volatile=volatile, squash=True, flags=_FLAGS
            )
            mounted.helper_pids.append(pid)
            if refused:
                mounted.why.append(f"/{path}: fuse-overlayfs, as overlay refused: {refused}")
            return "fuse-overlayfs"
        except RlessError as error:
            refused = refused or error.message
    mounted.why.append(f"/{path}: read-only" + (f", as {refused}" if refused else ""))
    _bind(path, mounted.path, base, hidden)
    return "bind,ro"


def _prepare(own: str, like: str) -> None:
    if not os.path.exists(f"{own}/work"):
        overlay.make_upper(own, like)


def _bind(path: str, root: str, base: str, hidden: Sequence[str]) -> None:
    """Bind the host's `path` read-only, with all that is mounted below it."""
    _attach(f"/{path}", f"{root}/{path}", recursive=True)
    for private in (*hidden, *(f"/{name}" for name in skeleton.EMPTY)):
        # What is a link there is covered by its own name.
        if private.startswith(f"/{path}/") and _is_directory(f"{root}{private}"):
            _attach(f"{base}/empty", f"{root}{private}", recursive=False)


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
