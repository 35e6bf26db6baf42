"""The driver `overlay`: the kernel's overlayfs, mounted in the user namespace.

With `userxattr` (Linux 5.11) the kernel keeps its marks in user.overlay.* attributes, which need no
privilege. A mount is one system call, so this is also the fast path: three mkdir, the attributes of
the root directory, one mount.

Directories are given as descriptors: the kernel resolves `/proc/self/fd/7` like any path. The
container can read the options in /proc/self/mountinfo, and learns nothing of the host from these.
They must fit in one page, and no path with a separator of theirs needs an escape. Beyond some 220
layers they are given from the working directory /proc/self/fd, where a plain `7` is enough. So 500
layers (OVL_MAX_STACK) fit on every kernel, without the newer `lowerdir+`.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# copy_mount_options() of the kernel takes one page and cuts the rest off silently.
_PAGE = 4096
_FDS = "/proc/self/fd"


def prepare(workspace: str, like: str | None, mount_point: bool = True) -> None:
    """Make upper, work and merged in `workspace`; the root directory looks as `like`'s.

    Existing ones are those of the container's earlier start and stay as they are. `work` is
    made last: where it exists, upper is complete.

    Args:
        like: a directory of the topmost layer; None: the root directory is root's, 0755.
        mount_point: whether merged is wanted.

    Raises:
        SyscallError: ENOSPC, EDQUOT...
    """
    upper, work = f"{workspace}/upper", f"{workspace}/work"
    try:
        if mount_point:
            try:
                os.mkdir(f"{workspace}/merged", 0o700)
            except FileExistsError:
                pass
        try:
            os.mkdir(upper, 0o700)
        except FileExistsError:
            if os.path.exists(work):
                return
        look_like(upper, like)
        os.mkdir(work, 0o700)
    except OSError as error:
        raise SyscallError(f"cannot prepare {error.filename}", error.errno or 0) from error


def check_attributes(place: str) -> None:
    """See that a directory takes the attributes that a union needs.

    Raises:
        SyscallError: EOPNOTSUPP: it takes none; EPERM: it lies on fuse-overlayfs.
    """
    try:
        os.setxattr(place, mounts.UNION_XATTR, b"")
    except OSError as error:
        raise SyscallError("setxattr(user.*)", error.errno or 0) from error


def look_like(upper: str, like: str | None) -> None:
    """Give `upper` the owner and mode of the directory `like`; None: of a usual root."""
    uid, gid, mode = 0, 0, 0o755
    if like is not None:
        status = os.stat(like)
        uid, gid, mode = status.st_uid, status.st_gid, status.st_mode & 0o7777
    try:
        os.chown(upper, uid, gid)
    except OSError as error:
        # An id without a mapping here: one id is mapped, or `like` is the host's. It stays ours.
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
    os.chmod(upper, mode)


def mount(
    layers: Sequence[str], workspace: str, target: str, *, volatile: bool = False, flags: int = 0
) -> str:
    """Mount `layers` (bottom to top) under `workspace`/upper at `target`.

    Returns:
        The options, with the paths that the descriptors in them stand for.

    Args:
        flags: more MS_* flags; MS_NODEV is always there.

    Raises:
        SyscallError: EPERM: not allowed in a user namespace (before 5.11, or an LSM); EINVAL:
            an unknown option, a file system that cannot be upper (see dmesg), a lower directory
            with mounts below it, over 500 layers; ELOOP: upper lies below a lower directory.
    """
    # Without user xattrs the mount would succeed, and `mkdir` over a deleted directory fail.
    work = f"{workspace}/work"
    check_attributes(work)
    if not layers:
        # The kernel wants one lower layer at least.
        layers = [f"{workspace}/empty"]
        os.makedirs(layers[0], 0o700, exist_ok=True)
    if volatile:
        try:
            return _mount(layers, workspace, target, flags, ",volatile")
        except SyscallError as error:
            if error.errno != errno.EINVAL:
                raise  # EINVAL: Linux before 5.10 doesn't know it, or the last try left its mark
    try:
        return _mount(layers, workspace, target, flags, "")
    except SyscallError as error:
        if error.errno != errno.EINVAL or not _forget_volatile(work):
            raise
    return _mount(layers, workspace, target, flags, "")


def _mount(layers: Sequence[str], workspace: str, target: str, flags: int, more: str) -> str:
    directories = (f"{workspace}/upper", f"{workspace}/work", *reversed(layers))
    fds: list[int] = []
    cwd_fd = -1
    try:
        try:
            for path in directories:
                fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SyscallError(f"open({error.filename})", error.errno or 0) from error
        options = _options([f"{_FDS}/{fd}" for fd in fds], more)
        if len(options) >= _PAGE:
            options = _options([str(fd) for fd in fds], more)
            if len(options) >= _PAGE:
                raise RlessError(f"{len(layers)} layers are too many for one mount")
            cwd_fd = os.open(".", os.O_PATH | os.O_CLOEXEC)
            os.chdir(_FDS)
        mounts.mount("overlay", target, "overlay", flags | mounts.MS_NODEV, options)
        return _options(directories, more)
    finally:
        if cwd_fd >= 0:
            os.fchdir(cwd_fd)
            os.close(cwd_fd)
        for fd in fds:
            os.close(fd)


def _options(directories: Sequence[str], more: str) -> str:
    upper, work, *lower = directories
    return f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work},userxattr{more}"


def _forget_volatile(work: str) -> bool:
    """Remove the mark of a volatile mount, which forbids every later one; True: there was one.

    The kernel leaves it, because after a crash of the machine upper may lack data. A machine
    that crashed has no container of ours that goes on, and a restart in the same boot is safe.
    """
    from rootless.linux import tree

    try:
        fd = os.open(f"{work}/work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.stat("incompat/volatile", dir_fd=fd, follow_symlinks=False)
        tree.remove_tree(fd, "incompat")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
