"""Step 3, the end: pivot_root to the new root file system, and unmount the host's."""

from __future__ import annotations

import errno
import os

from rootless.errors import SyscallError
from rootless.linux import mount as api


def enter_root(root_fd: int, use_pivot: bool = True) -> None:
    """Make the mount behind `root_fd` the root directory, and detach the old one.

    pivot_root(".", ".") stacks the old root over the new one at the same place, so no
    directory for it is needed in the image; what is on top is then detached (pivot_root(2),
    NOTES). chroot alone would leave the host's mounts in reach of CAP_SYS_CHROOT.

    Args:
        use_pivot: False where the current root is the initramfs, which cannot be pivoted away:
            the new root is moved over it then. EINVAL leads there by itself.
    """
    old_root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root_fd)
        if use_pivot:
            try:
                api.pivot_root(".", ".")
            except SyscallError as error:
                if error.errno != errno.EINVAL:
                    raise
                use_pivot = False
        if use_pivot:
            os.fchdir(old_root)
            # Nothing that we detach here may be unmounted on the host as well.
            api.mount_setattr(old_root, propagation=api.MS_SLAVE, recursive=True)
            api.umount(".")
        else:
            api.mount(".", "/", flags=api.MS_MOVE)
            os.chroot(".")
    finally:
        os.close(old_root)
    os.chdir("/")
