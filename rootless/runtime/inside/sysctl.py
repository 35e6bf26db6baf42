"""Step 3, kernel settings: the sysctls that belong to a namespace of the container.

They are written through a procfs that is attached nowhere, because mounts of the container could
redirect a path through its /proc (CVE-2025-52881). The parent loads this only where a config has
sysctls, as init can import nothing.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# All others belong to the host (the list of runc's validator).
_IPC = frozenset(
    f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")
) | {"kernel/shm_rmid_forced"}
_UTS = frozenset({"kernel/domainname", "kernel/hostname"})
_SWAP = str.maketrans("./", "/.")
_RESOLVE = (
    openat2.RESOLVE_BENEATH
    | openat2.RESOLVE_NO_XDEV
    | openat2.RESOLVE_NO_SYMLINKS
    | openat2.RESOLVE_NO_MAGICLINKS
)


def path_of(name: str) -> str:
    """Return the path below /proc/sys of a setting, as net.ipv4.ip_forward.

    The first separator tells which one it is: net/ipv4/conf/eth0.1/mtu has a dot in a name.

    Raises:
        RlessError: it is no such name.
    """
    dot, slash = name.find("."), name.find("/")
    path = name if slash >= 0 and (dot < 0 or slash < dot) else name.translate(_SWAP)
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise RlessError(f"sysctl {name}: not the name of a setting")
    return path


def check(name: str, kinds: set[str]) -> str:
    """Return the path of a setting that belongs to one of the container's own namespaces.

    Args:
        kinds: the types of these namespaces.

    Raises:
        RlessError: it belongs to the host, or to a namespace that is shared.
    """
    path = path_of(name)
    if path in _IPC or path.startswith("fs/mqueue/"):
        needed = "ipc"
    elif path.startswith("net/"):
        needed = "network"
    elif path in _UTS:
        needed = "uts"
    else:
        raise RlessError(f"sysctl {name}: it belongs to the whole host, not to a namespace")
    if needed not in kinds:
        raise RlessError(f"sysctl {name}: the container shares the {needed} namespace")
    return path


def write(settings: Mapping[str, str], kinds: set[str]) -> None:
    """Write the settings.

    Raises:
        RlessError: as `check`, or the kernel refuses.

    Where it runs: in init, before any mount is the container's.
    """
    try:
        proc = api.new_mount("proc")
    except SyscallError:
        # Not in a pid namespace of ours: then this is still the host's, as it was mounted.
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, value in settings.items():
            _write(proc, f"sys/{check(name, kinds)}", name, value)
    finally:
        os.close(proc)


def _write(proc_fd: int, path: str, name: str, value: str) -> None:
    try:
        fd = openat2.openat2(proc_fd, path, os.O_WRONLY, resolve=_RESOLVE)
    except SyscallError as error:
        raise RlessError(f"cannot set sysctl {name}: {os.strerror(error.errno)}") from error
    try:
        os.write(fd, value.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise RlessError(f"cannot set sysctl {name} to {value}: {error.strerror}") from error
    finally:
        os.close(fd)
