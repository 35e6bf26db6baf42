"""Mounts: the descriptor based mount API, pivot_root and umount.

With fsopen/open_tree a mount exists as a descriptor before it is attached, and it is attached
to a descriptor too: no path is looked up twice, so nobody can swap a component in between
(security classes 26 to 29). The calls are those of Linux 5.2, mount_setattr of 5.12.
"""

from __future__ import annotations

import os

from rootless.linux import ffi
from rootless.linux.call import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_PIVOT_ROOT,
    encode,
    failed,
    libc,
    shown,
    syscall,
)

# A directory that can hold the writable layer of a union takes this attribute. fuse-overlayfs
# refuses it to others: it takes their whiteouts for its own, and can hold none.
UNION_XATTR = "user.fuseoverlayfs.rless"

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_ATIME_MASK = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_mount = libc.mount
_mount.argtypes = [
    ffi.c_char_p,
    ffi.c_char_p,
    ffi.c_char_p,
    ffi.c_ulong,
    ffi.c_char_p,
]
_umount2 = libc.umount2


# struct mount_attr, version 0 (linux/mount.h): attr_set, attr_clr, propagation, userns_fd
_MOUNT_ATTR = ffi.Struct("=4Q")


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | None = None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """Mount by path, the classic call: for our own directories, never below a hostile root.

    Raises:
        SyscallError: EINVAL: a bad option (dmesg tells which), or `data` over one page.

    Where it runs: needs CAP_SYS_ADMIN in the user namespace of the mount namespace.
    Source: mount(2).
    """
    if _mount(encode(source), encode(target), encode(fstype), flags, encode(data)) == -1:
        raise failed(f"mount({fstype or shown(source)}, {shown(target)})")


def umount(target: str | bytes, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
    """Detach a mount (umount(2)); EINVAL: it is none, or locked by a parent user namespace."""
    if _umount2(encode(target), flags) == -1:
        raise failed(f"umount({shown(target)})")


def pivot_root(new_root: str, put_old: str) -> None:
    """Swap the root mount (pivot_root(2)).

    Raises:
        SyscallError: EINVAL: new_root is no mount point, its parent is shared, or the current
            root is the initramfs; EBUSY: new_root is on the current root file system.
    """
    syscall(f"pivot_root({new_root}, {put_old})", SYS_PIVOT_ROOT, encode(new_root), encode(put_old))


def fsopen(fstype: str) -> int:
    """Start to configure a new file system; return its context (fsopen(2), Linux 5.2)."""
    return syscall(f"fsopen({fstype})", SYS_FSOPEN, encode(fstype), _FSOPEN_CLOEXEC)


def fsconfig_set(context_fd: int, key: str, value: str | None = None) -> None:
    """Set one option: `key=value`, or the flag `key` where value is None (fsconfig(2))."""
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    syscall(
        f"fsconfig({key}={value})",
        SYS_FSCONFIG,
        context_fd,
        command,
        encode(key),
        encode(value),
        0,
    )


def fsmount(context_fd: int, attributes: int = 0) -> int:
    """Create the configured file system; return it as a detached mount (fsmount(2)).

    Raises:
        SyscallError: EPERM: proc or sysfs, and what is visible here has masks that a new one
            would not have (`mount_too_revealing` in the kernel).
    """
    syscall("fsconfig(create)", SYS_FSCONFIG, context_fd, _FSCONFIG_CMD_CREATE, None, None, 0)
    return syscall("fsmount", SYS_FSMOUNT, context_fd, _FSMOUNT_CLOEXEC, attributes)


def new_mount(
    fstype: str, options: list[tuple[str, str | None]] | None = None, attributes: int = 0
) -> int:
    """Return a new, detached mount of a file system with these options and MOUNT_ATTR_*."""
    context_fd = fsopen(fstype)
    try:
        for key, value in options or ():
            fsconfig_set(context_fd, key, value)
        return fsmount(context_fd, attributes)
    finally:
        os.close(context_fd)


def open_tree(dir_fd: int, path: str | bytes, recursive: bool = True) -> int:
    """Return a detached copy (a bind mount) of the tree at `path` (open_tree(2), Linux 5.2).

    An empty path means the descriptor itself; the last component is followed if it is a link.

    Raises:
        SyscallError: EINVAL: the mount belongs to another mount namespace, or is unbindable,
            or (not recursive) has locked mounts below it.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    if recursive:
        flags |= AT_RECURSIVE
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(f"open_tree({shown(path)})", SYS_OPEN_TREE, dir_fd, encode(path), flags)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount over the file or directory behind `target_fd` (an O_PATH fd).

    Source: move_mount(2), Linux 5.2.
    """
    syscall(
        "move_mount",
        SYS_MOVE_MOUNT,
        mount_fd,
        b"",
        target_fd,
        b"",
        _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH,
    )


def mount_setattr(
    fd: int,
    path: str | bytes = b"",
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of the mount (and those below it) at `path` beneath `fd`.

    Raises:
        SyscallError: EPERM: an attribute is locked by a parent user namespace.

    Source: mount_setattr(2), Linux 5.12.
    """
    attr = _MOUNT_ATTR.pack(set_, clear, propagation, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    syscall(
        f"mount_setattr({shown(path)})",
        SYS_MOUNT_SETATTR,
        fd,
        encode(path),
        flags,
        attr,
        len(attr),
    )
