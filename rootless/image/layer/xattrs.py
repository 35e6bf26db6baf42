"""Extended attributes: which of them an image may set, and how they are set.

An allow-list has `user.*`, without the names that overlayfs, fuse-overlayfs, containers/storage and
we trust: an image that set those could redirect a lookup or claim an owner. It also has file
capabilities without a root id, to which the kernel adds that of the user namespace.

A `ping` with cap_net_raw=ep, as Debian's, would be executed by nobody in a container without
CAP_NET_RAW, not even by root. So it becomes cap_net_raw=p (docs/decisions/0023-net-raw.md).

Source: xattr(7); kernel filesystems/overlayfs.rst, "userxattr"; linux/capability.h.
"""

from __future__ import annotations

import errno
import os

from rootless.image.model import limits

CAPABILITY = b"security.capability"
_NET_RAW = (1 << 13).to_bytes(4, "little")
_FORBIDDEN = (b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.", b"user.rless.")
_NAME_BYTES = 255  # XATTR_NAME_MAX
# Where an attribute cannot be kept the file is still right without it.
_LOST = frozenset(
    (errno.ENOTSUP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE, errno.EPERM)
)


def is_allowed(name: bytes) -> bool:
    """Tell whether an image may set this attribute of the user's own."""
    return name.startswith(b"user.") and not name.startswith(_FORBIDDEN)


def plain_capability(value: bytes) -> bytes | None:
    """Return file capabilities without a root id; None if they are of another namespace.

    Source: linux/capability.h: struct vfs_cap_data, vfs_ns_cap_data (little-endian).
    """
    if len(value) < 20:
        return None
    revision = value[3]
    if revision == 2 and len(value) == 20:
        return value
    if revision == 3 and len(value) == 24 and value[20:24] == b"\0\0\0\0":
        return value[:3] + b"\x02" + value[4:20]
    return None


def _executable(value: bytes) -> bytes:
    """Let a file that has NET_RAW alone be executed where there is no NET_RAW, then without it.

    execve(2) fails with EPERM if the effective flag is set and a permitted capability is not in
    the bounding set. Programs that know capabilities make a permitted one effective themselves.

    Source: capabilities(7), "Safety checking for capability-dumb binaries"; linux/capability.h:
    VFS_CAP_FLAGS_EFFECTIVE, the permitted set at 4 and 12.
    """
    if value[4:8] == _NET_RAW and value[12:16] == bytes(4):
        return bytes([value[0] & ~1]) + value[1:]
    return value


def write(fd: int, found: dict[bytes, bytes], *, keep_capabilities: bool) -> int:
    """Set what is allowed of an image's attributes; return how many of that were lost.

    Capabilities must come last of all changes to a file: chown and write clear them.
    """
    lost = 0
    for name, value in found.items():
        kept: bytes | None = value
        if name == CAPABILITY:
            kept = plain_capability(value) if keep_capabilities else None
            kept = kept and _executable(kept)
        elif not is_allowed(name):
            continue
        if kept is None or len(name) > _NAME_BYTES or len(kept) > limits.XATTR_BYTES:
            lost += 1
            continue
        try:
            os.setxattr(fd, name, kept)
        except OSError as error:
            if error.errno not in _LOST:
                raise
            lost += 1
    return lost


def read(fd: int) -> dict[bytes, bytes]:
    """Return the attributes of a file that an image may have."""
    found = {}
    try:
        for name in os.listxattr(fd):
            raw = os.fsencode(name)
            if raw == CAPABILITY or is_allowed(raw):
                found[raw] = os.getxattr(fd, name)
    except OSError as error:
        if error.errno not in _LOST:
            raise
    return found
