"""Step 3, /dev: the standard nodes and links on a fresh tmpfs.

A user namespace may not make device nodes, so those of the host are bound: opened on the
host's side before anything of the image is looked at, checked to be the devices they should
be (CVE-2025-31133: a mask source that was a link), and attached by descriptor.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux.call import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Device
    from rootless.runtime.mounts import Root

# path -> (major, minor), as the kernel has them (admin-guide/devices.txt)
STANDARD = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


def open_host_nodes(devices: list[Device]) -> dict[str, int]:
    """Return the detached binds of the standard nodes and of `linux.devices`, by path inside.

    Raises:
        RlessError: a node is missing, or is another device than it should be.
    """
    nodes = {}
    for path, number in STANDARD.items():
        nodes[path] = _open_node(path, number)
    for device in devices:
        path = device["path"]
        if path in nodes:
            continue
        if device.get("type", "c") not in ("c", "u", "b"):
            raise RlessError(f"linux.devices: {path}: type {device.get('type')} is not a device")
        nodes[path] = _open_node(path, (device.get("major", 0), device.get("minor", 0)))
    return nodes


def _open_node(path: str, number: tuple[int, int]) -> int:
    try:
        fd = api.open_tree(AT_FDCWD, path, recursive=False)
    except SyscallError as error:
        raise RlessError(f"device {path}: {os.strerror(error.errno)}") from error
    status = os.fstat(fd)
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    if not is_device or (os.major(status.st_rdev), os.minor(status.st_rdev)) != number:
        os.close(fd)
        raise RlessError(f"device {path} on this host is not device {number[0]}:{number[1]}")
    return fd


def furnish(root: Root, nodes: dict[str, int]) -> None:
    """Attach the nodes and make the links; /dev must be a tmpfs of ours by now."""
    for path, mount_fd in nodes.items():
        target = root.target(path, os.fstat(mount_fd))
        api.move_mount(mount_fd, target)
        os.close(target)
    dev_fd = root.open("/dev", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name, target_path in _LINKS.items():
            try:
                os.symlink(target_path, name, dir_fd=dev_fd)
            except FileExistsError:
                pass
            except OSError as error:
                raise SyscallError(f"symlink(/dev/{name})", error.errno or 0) from error
    finally:
        os.close(dev_fd)
