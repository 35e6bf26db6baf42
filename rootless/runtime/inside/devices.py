"""Step 3, /dev: the standard nodes and links on a fresh tmpfs.

A user namespace may not make device nodes, so those of the host are bound. They are opened on the
host's side before anything of the image is looked at, checked to be the right devices
(CVE-2025-31133: a mask source that was a link), and attached by descriptor.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import make_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Device
    from rootless.runtime.inside.mounts import Root

# path -> (major, minor), as the kernel has them (admin-guide/devices.txt)
STANDARD = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK}
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
        nodes[path] = _open_node(path, stat.S_IFCHR, number)
    for device in devices:
        path = os.path.normpath(device["path"])
        if path in nodes or path == "/dev/ptmx":  # it is the container's own, as in runc and crun
            continue
        if device["type"] not in _KINDS:
            raise RlessError(f"linux.devices: {path}: type {device['type']} is not a device")
        number = device.get("major", 0), device.get("minor", 0)
        nodes[path] = _open_node(path, _KINDS[device["type"]], number)
    return nodes


def open_null() -> int:
    """Return the host's /dev/null, which must be it: masks are made of it (CVE-2025-31133)."""
    fd = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    _check_node(fd, "/dev/null", stat.S_IFCHR, STANDARD["/dev/null"])
    return fd


def _open_node(path: str, kind: int, number: tuple[int, int]) -> int:
    try:
        fd = api.open_tree(AT_FDCWD, path, recursive=False)
    except SyscallError as error:
        raise RlessError(f"device {path}: {os.strerror(error.errno)}") from error
    _check_node(fd, path, kind, number)
    # As crun has it: they are there to be read and written.
    api.mount_setattr(
        fd, set_=api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NOEXEC, propagation=api.MS_PRIVATE
    )
    return fd


def _check_node(fd: int, path: str, kind: int, number: tuple[int, int]) -> None:
    status = os.fstat(fd)
    found = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_IFMT(status.st_mode) != kind or found != number:
        os.close(fd)
        what = "block" if kind == stat.S_IFBLK else "character"
        raise RlessError(f"{path} on this host is not the {what} device {number[0]}:{number[1]}")


def populate(root: Root, nodes: dict[str, int]) -> None:
    """Attach the nodes and make the links; /dev is mostly a tmpfs of ours by now."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        dev_fd = root.open("/dev", flags)
    except SyscallError:
        os.close(make_dirs(root.fd, "/dev"))
        dev_fd = root.open("/dev", flags)
    try:
        for path, mount_fd in nodes.items():
            target = _place(root, dev_fd, path, mount_fd)
            api.move_mount(mount_fd, target)
            os.close(target)
        for name, target_path in _LINKS.items():
            try:
                os.symlink(target_path, name, dir_fd=dev_fd)
            except FileExistsError:
                pass
            except OSError as error:
                raise SyscallError(f"symlink(/dev/{name})", error.errno or 0) from error
    finally:
        os.close(dev_fd)


def _place(root: Root, dev_fd: int, path: str, mount_fd: int) -> int:
    """Open the file that a node is attached to: mostly a new one in /dev, so no link is there."""
    directory, _, name = path.rpartition("/")
    if directory == "/dev":
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o644, dir_fd=dev_fd)
        except OSError:
            pass  # there is one, or there cannot be
    return root.target(path, os.fstat(mount_fd))
