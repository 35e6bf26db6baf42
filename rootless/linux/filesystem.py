"""Calls about a file system as a whole."""

from __future__ import annotations

from rootless.linux import ffi
from rootless.linux.call import failed, libc


def syncfs(fd: int) -> None:
    """Write everything that is cached of one file system to its disk.

    One call for a pull of 60,000 files costs far less than an fsync of each.

    Raises:
        SyscallError: EIO or ENOSPC: data was lost since the last call (Linux 5.8).

    Source: syncfs(2).
    """
    if libc.syncfs(fd) == -1:
        raise failed("syncfs")


# Of file systems that the kernel makes up: what is in them are no files of anybody.
_KERNEL_TYPES = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x63677270,  # cgroup2
        0x27E0EB,  # cgroup
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x6165676C,  # pstore
    )
)


# linux/magic.h, and those that are not in it: Lustre, GPFS, BeeGFS, OrangeFS.
_NAMES = {
    0x6969: "NFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x20030528: "OrangeFS",
    0xC36400: "Ceph",
    0xFF534D42: "CIFS",
    0xFE534D42: "CIFS",
    0x517B: "CIFS",
    0x01021997: "9p",
    0x5346414F: "AFS",
    0xAAD7AAEA: "PanFS",
    0x65735546: "FUSE",
    0x858458F6: "ramfs",
    0x01021994: "tmpfs",
    0x4D44: "FAT",
}


def name_of(path: str) -> str:
    """Return the name of the file system that holds a path; "" for one with nothing odd to it.

    Source: statfs(2).
    """
    buffer = ffi.create_string_buffer(256)
    if libc.statfs(path.encode("utf-8", "surrogateescape"), buffer) == -1:
        return ""
    return _NAMES.get(int.from_bytes(bytes(buffer)[:8], "little") & 0xFFFFFFFF, "")


def is_kernels(fd: int) -> bool:
    """Tell whether a file lies in /proc, /sys or another file system without files.

    Source: fstatfs(2); linux/magic.h.
    """
    buffer = ffi.create_string_buffer(256)
    if libc.fstatfs(fd, buffer) == -1:
        raise failed("fstatfs")
    return int.from_bytes(bytes(buffer)[:8], "little") in _KERNEL_TYPES
