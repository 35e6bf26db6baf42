"""Step 3, the mounts of the container, each attached by descriptor beneath its root.

Theory of operation. All of this runs in init, in the container's own mount namespace, before
pivot_root, while the host is still in sight. Sources are opened first, as the user who runs
rless: a file system that knows nothing of user namespaces (NFS, sshfs) obeys nobody else. The target of each mount is opened beneath the
root by openat2(RESOLVE_IN_ROOT): a link in a hostile image leads nowhere but into the image.
The mount is made detached (fsopen, open_tree) and attached to that very descriptor, so that
no name is looked up twice (security classes 26, 27, 29, 30).
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import make_dirs, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Mount

# option -> (attributes to set, attributes to clear); runtime-spec, section Linux mount options
_ATTRIBUTES = {
    "ro": (api.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, api.MOUNT_ATTR_RDONLY),
    "nosuid": (api.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, api.MOUNT_ATTR_NOSUID),
    "nodev": (api.MOUNT_ATTR_NODEV, 0),
    "dev": (0, api.MOUNT_ATTR_NODEV),
    "noexec": (api.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, api.MOUNT_ATTR_NOEXEC),
    "nosymfollow": (api.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, api.MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (api.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, api.MOUNT_ATTR_NODIRATIME),
    "noatime": (api.MOUNT_ATTR_NOATIME, api.MOUNT_ATTR_ATIME_MASK),
    "relatime": (api.MOUNT_ATTR_RELATIME, api.MOUNT_ATTR_ATIME_MASK),
    "strictatime": (api.MOUNT_ATTR_STRICTATIME, api.MOUNT_ATTR_ATIME_MASK),
}
# The same with "r" in front holds for the whole tree: rro, rnosuid, ...
_RECURSIVE_ATTRIBUTES = {f"r{name}": bits for name, bits in _ATTRIBUTES.items()}
_PROPAGATION = {
    "private": (api.MS_PRIVATE, False),
    "rprivate": (api.MS_PRIVATE, True),
    "slave": (api.MS_SLAVE, False),
    "rslave": (api.MS_SLAVE, True),
    "shared": (api.MS_SHARED, False),
    "rshared": (api.MS_SHARED, True),
    "unbindable": (api.MS_UNBINDABLE, False),
    "runbindable": (api.MS_UNBINDABLE, True),
}
# Mounts that may lie over files of a procfs, as lxcfs does (the list of runc).
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)


class Options:
    """The options of one mount, sorted by what the kernel does with them."""

    __slots__ = (
        "bind",
        "clear",
        "data",
        "propagation",
        "recursive",
        "recursive_clear",
        "recursive_set",
        "set",
    )

    def __init__(self, options: list[str]) -> None:
        """Sort `options`; what is no mount attribute is data for the file system.

        Raises:
            RlessError: an option that cannot be honoured.
        """
        self.bind = self.recursive = False
        self.set = self.clear = self.recursive_set = self.recursive_clear = 0
        self.propagation: list[tuple[int, bool]] = []
        self.data: list[tuple[str, str | None]] = []
        for option in options:
            if option in _ATTRIBUTES:
                bits, clear = _ATTRIBUTES[option]
                # The last of a pair wins.
                self.set = (self.set & ~clear) | bits
                self.clear = (self.clear & ~bits) | clear
            elif option in _RECURSIVE_ATTRIBUTES:
                bits, clear = _RECURSIVE_ATTRIBUTES[option]
                self.recursive_set = (self.recursive_set & ~clear) | bits
                self.recursive_clear = (self.recursive_clear & ~bits) | clear
            elif option in _PROPAGATION:
                self.propagation.append(_PROPAGATION[option])
            elif option in ("bind", "rbind"):
                self.bind = True
                self.recursive = option == "rbind"
            elif option in ("idmap", "ridmap"):
                raise RlessError("mount option idmap: an ID-mapped mount needs real root")
            elif option == "tmpcopyup":
                raise RlessError("mount option tmpcopyup is not supported")
            elif option not in ("defaults", "async"):
                key, equals, value = option.partition("=")
                self.data.append((key, value if equals else None))


def open_root(path: str) -> int:
    """Return the root file system as a detached mount of its own, so that it can be pivoted to.

    Raises:
        RlessError: it is missing or no directory.
    """
    try:
        under = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return api.open_tree(under, b"")
        finally:
            os.close(under)
    except OSError as error:
        raise RlessError(f"root file system {path}: {error.strerror}") from error


def open_source(entry: Mount) -> int:
    """Return the source of a bind mount as a detached mount; -1: the entry is no bind mount.

    Raises:
        RlessError: the source cannot be reached.
    """
    options = entry.get("options", [])
    if entry.get("type") != "bind" and "bind" not in options and "rbind" not in options:
        return -1
    source = entry.get("source", "")
    try:
        return api.open_tree(AT_FDCWD, source, "rbind" in options)
    except SyscallError as error:
        raise RlessError(
            f"cannot mount {entry['destination']}: source {source}: {os.strerror(error.errno)}"
        ) from error


class Root:
    """The root file system that is being furnished: everything is opened beneath it.

    Attributes:
        fd: its top directory.
    """

    __slots__ = ("_proc_devices", "fd")

    def __init__(self, path: str, tree_fd: int) -> None:
        """Attach the tree of `open_root` over `path`.

        Where the path itself cannot be walked any more (a private directory of a user who is
        not mapped here), any place that nobody sees does: it is the root in a moment.
        """
        self._proc_devices: set[int] = set()
        api.mount_setattr(tree_fd, propagation=api.MS_PRIVATE, recursive=True)
        try:
            under = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            under = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        api.move_mount(tree_fd, under)
        os.close(under)
        self.fd = tree_fd

    def open(self, path: str | bytes, flags: int = os.O_PATH) -> int:
        """Open beneath the root."""
        return openat2(self.fd, path, flags)

    def attach(self, entry: Mount, source_fd: int) -> None:
        """Make one mount of the config.

        Args:
            source_fd: what `open_source` gave; it is closed here.

        Raises:
            RlessError: with the destination and why.
        """
        destination = entry["destination"]
        try:
            options = Options(entry.get("options", []))
            if source_fd >= 0:
                mount_fd = source_fd
                _prepare_bind(mount_fd, options)
            else:
                mount_fd = _new(entry.get("type", ""), options)
            try:
                target = self.target(destination, os.fstat(mount_fd))
                self._refuse_procfs(destination, target)
                api.move_mount(mount_fd, target)
                os.close(target)
                if entry.get("type") == "proc" or entry.get("source") == "/proc":
                    self._proc_devices.add(os.fstat(mount_fd).st_dev)
            finally:
                os.close(mount_fd)
        except RlessError as error:
            raise error.within(f"cannot mount {destination}") from error

    def target(self, destination: str, source: os.stat_result) -> int:
        """Open the mount point beneath the root, making it if it is missing."""
        try:
            return self.open(destination)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        if stat.S_ISDIR(source.st_mode):
            return make_dirs(self.fd, destination)
        parent, _, name = destination.rstrip("/").rpartition("/")
        parent_fd = make_dirs(self.fd, parent)
        try:
            fd = os.open(
                name,
                os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC,
                0o644,
                dir_fd=parent_fd,
            )
            os.close(fd)
        except FileExistsError:
            pass  # a dangling link: the open beneath the root tells
        except OSError as error:
            raise SyscallError(f"open({destination})", error.errno or 0) from error
        finally:
            os.close(parent_fd)
        return self.open(destination)

    def _refuse_procfs(self, destination: str, target: int) -> None:
        """Refuse to cover a part of our procfs: what the kernel shows there must be true."""
        if os.fstat(target).st_dev in self._proc_devices and destination not in _PROC_FILES:
            raise RlessError("the target lies in /proc")

    def mask(self, path: str, null_fd: int) -> None:
        """Hide one path: a file under the host's /dev/null, a directory under nothing.

        A path that does not exist needs no mask.
        """
        try:
            target = self.open(path)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        if stat.S_ISDIR(os.fstat(target).st_mode):
            cover = api.new_mount(
                "tmpfs",
                [("size", "0"), ("nr_inodes", "1"), ("mode", "555")],
                api.MOUNT_ATTR_RDONLY
                | api.MOUNT_ATTR_NOSUID
                | api.MOUNT_ATTR_NODEV
                | api.MOUNT_ATTR_NOEXEC,
            )
        else:
            cover = api.open_tree(null_fd, b"", recursive=False)
        api.move_mount(cover, target)
        os.close(cover)
        os.close(target)

    def make_read_only(self, path: str) -> None:
        """Cover one path with a read-only view of itself; a missing path needs none."""
        try:
            target = self.open(path)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        view = api.open_tree(target, b"")
        api.mount_setattr(view, set_=api.MOUNT_ATTR_RDONLY, recursive=True)
        api.move_mount(view, target)
        os.close(view)
        os.close(target)


def _prepare_bind(tree: int, options: Options) -> None:
    for flags, recursive in options.propagation or [(api.MS_PRIVATE, True)]:
        api.mount_setattr(tree, propagation=flags, recursive=recursive)
    if options.set or options.clear:
        _set_attributes(tree, options.set, options.clear, recursive=False)
    if options.recursive_set or options.recursive_clear:
        _set_attributes(tree, options.recursive_set, options.recursive_clear, recursive=True)


def _set_attributes(tree: int, bits: int, clear: int, recursive: bool) -> None:
    """Set attributes, but leave those that a parent user namespace has locked.

    A mount that was nosuid or read-only before the user namespace was made stays so: asking
    for less is EPERM (mount_namespaces(7)). For `rw`, `exec`, `suid` and `dev` of a config that
    only means "as the source is".
    """
    try:
        api.mount_setattr(tree, set_=bits, clear=clear, recursive=recursive)
    except SyscallError as error:
        if error.errno != errno.EPERM or not clear:
            raise
        api.mount_setattr(tree, set_=bits & ~api.MOUNT_ATTR_ATIME_MASK, recursive=recursive)


def _new(fstype: str, options: Options) -> int:
    """Return a new mount of `fstype`, detached."""
    attributes = options.set | options.recursive_set
    if fstype == "cgroup":
        try:
            return api.new_mount("cgroup2", [("source", "cgroup2")], attributes)
        except SyscallError:
            # No unified hierarchy here: an empty directory tells that best.
            return api.new_mount("tmpfs", [("size", "0"), ("mode", "555")], attributes)
    if fstype == "proc":
        try:
            return api.new_mount("proc", [("source", "proc"), *options.data], attributes)
        except SyscallError as error:
            if error.errno != errno.EPERM:
                raise
            raise RlessError(
                "the kernel refuses a new /proc, because parts of the present one are covered "
                "(are we inside a container?)",
                "use --pid host, or run the outer container with --security-opt unmask=ALL",
            ) from error
    # The source is only a name, but tools show it.
    return api.new_mount(fstype, [("source", fstype), *options.data], attributes)


def option_names() -> list[str]:
    """Return the mount options that are understood, for `features`."""
    return sorted([*_ATTRIBUTES, *_RECURSIVE_ATTRIBUTES, *_PROPAGATION, "bind", "rbind"])
