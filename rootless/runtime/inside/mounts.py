"""Step 3, the mounts of the container, each attached by descriptor beneath its root.

Theory of operation. All of this runs in init, in the container's own mount namespace, before
pivot_root, while the host is still visible. Sources are opened first, as the user who runs rless,
because a file system that does not support user namespaces (NFS, sshfs) accepts nobody else. The
target of each mount is opened beneath the root by openat2(RESOLVE_IN_ROOT), so a link in a hostile
image leads only into the image; for what the kernel provides, not even there. The mount is made
detached (fsopen, open_tree) and attached to that very descriptor, so no name is looked up twice
(security classes 26, 27, 29, 30).
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import (
    IN_ROOT,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    make_dirs,
    make_file,
    openat2,
)

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
    # What is left without the other is the kernel's default.
    **dict.fromkeys(
        ("atime", "norelatime", "nostrictatime"),
        (api.MOUNT_ATTR_RELATIME, api.MOUNT_ATTR_ATIME_MASK),
    ),
}
# The option of mount(8) that mounts a part of the source.
SUBDIR = "X-mount.subdir="
# They change nothing: defaults, and what is for the kernel's log or for a server of NFS.
_NO_EFFECT = frozenset({"defaults", "async", "loud", "silent", "iversion", "noiversion"})
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
# What the kernel provides is never mounted through a link of the image: what is written to it
# later, by its usual name, must get there (CVE-2019-19921, CVE-2025-52565).
_KERNEL_TYPES = frozenset({"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"})
_KERNEL_PLACES = frozenset({"/proc", "/sys", "/dev"})
# Why the kernel says EPERM to a new one.
_HINTS = {
    "proc": (
        "the kernel refuses a new /proc, because parts of the present one are covered "
        "(are we inside a container?)",
        "use --pid host, or run the outer container with --security-opt unmask=ALL",
    ),
    "sysfs": (
        "the kernel refuses a new /sys, because the network namespace is not the container's own",
        "bind the host's /sys",
    ),
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

# What a masked directory shows.
_EMPTY_TMPFS: list[tuple[str, str | None]] = [("size", "0"), ("nr_inodes", "1"), ("mode", "555")]
_EMPTY_ATTRIBUTES = (
    api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_NODEV | api.MOUNT_ATTR_NOEXEC
)


class Options:
    """The options of one mount, sorted by how the kernel takes them."""

    __slots__ = (
        "bind",
        "clear",
        "copy_up",
        "data",
        "propagation",
        "recursive",
        "recursive_clear",
        "recursive_set",
        "remount",
        "set",
    )

    def __init__(self, options: list[str]) -> None:
        """Sort `options`; what is no mount attribute is data for the file system.

        Raises:
            RlessError: an option that cannot be honoured.
        """
        self.bind = self.recursive = self.remount = self.copy_up = False
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
                self.copy_up = True
            elif option == "remount":
                self.remount = True
            elif option not in _NO_EFFECT:
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


def is_bind(entry: Mount) -> bool:
    """Tell whether a mount of the config is a bind mount."""
    options = entry.get("options", [])
    return entry.get("type") == "bind" or "bind" in options or "rbind" in options


def open_source(entry: Mount) -> int:
    """Return the source of a bind mount as a detached mount; -1: the entry is no bind mount.

    Raises:
        RlessError: the source cannot be reached.
    """
    if not is_bind(entry) or "remount" in entry.get("options", ()):
        return -1
    options = entry.get("options", [])
    source, recursive = entry["source"], "rbind" in options
    below = next((text[len(SUBDIR) :] for text in options if text.startswith(SUBDIR)), "")
    try:
        if below:
            return open_part(source, below, recursive)
        return api.open_tree(AT_FDCWD, source, recursive)
    except SyscallError as error:
        why, hint = os.strerror(error.errno), None
        if error.errno == errno.EINVAL and not recursive:
            # To leave them out would show what they cover (mount_namespaces(7)).
            why = "it has other mounts below it, which cannot be left out without root"
            hint = "bind it recursively"
        raise RlessError(
            f"cannot mount {entry['destination']}: source {source}: {why}", hint
        ) from error


def open_part(source: str, path: str, recursive: bool = True) -> int:
    """Return what is in a directory as a detached mount.

    Whoever writes into a volume that several containers share may exchange a directory for a link
    at any moment: one call looks the path up, and it does not leave the directory (class 29).

    Raises:
        RlessError: it is not there, or a link leads out.
    """
    opened: list[int] = []
    try:
        opened.append(os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        inside = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
        opened.append(openat2(opened[0], path, os.O_PATH, resolve=inside))
        return api.open_tree(opened[1], b"", recursive)
    except (OSError, SyscallError) as error:
        why = os.strerror(error.errno or 0)
        if error.errno in (errno.EXDEV, errno.ELOOP):
            why = "it leads out of the volume"
        hint = "make it in the volume first" if error.errno == errno.ENOENT else None
        raise RlessError(f"cannot mount {path} of {source}: {why}", hint) from error
    finally:
        for fd in opened:
            os.close(fd)


class Root:
    """The root file system that is being populated: everything is opened beneath it.

    Attributes:
        fd: its top directory.
    """

    __slots__ = ("_closing", "_proc_devices", "_propagation", "fd")

    def __init__(self, path: str, tree_fd: int, propagation: str = "") -> None:
        """Attach the tree of `open_root` over `path`.

        Where the path itself cannot be walked any more (a private directory of a user who is
        not mapped here), any place that nobody sees does: it is the root in a moment.

        Args:
            propagation: `linux.rootfsPropagation`; it is private while we mount, or a slave.
        """
        self._proc_devices: set[int] = set()
        self._closing: list[int] = []
        self._propagation, _ = _PROPAGATION.get(propagation, (api.MS_PRIVATE, True))
        first = api.MS_SLAVE if self._propagation == api.MS_SLAVE else api.MS_PRIVATE
        api.mount_setattr(tree_fd, propagation=first, recursive=True)
        try:
            under = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            under = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        api.move_mount(tree_fd, under)
        os.close(under)
        self.fd = tree_fd

    def close(self) -> None:
        """Let go of it, the mounts being made, with the propagation that is asked for."""
        for mount_fd in self._closing:
            api.mount_setattr(mount_fd, set_=api.MOUNT_ATTR_RDONLY)
            os.close(mount_fd)
        if self._propagation not in (api.MS_PRIVATE, api.MS_SLAVE):
            api.mount_setattr(self.fd, propagation=self._propagation, recursive=True)
        os.close(self.fd)

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
        destination, kind = entry["destination"], entry.get("type", "")
        try:
            options = Options(entry.get("options", []))
            if options.remount:
                self._remount(destination, options)
                return
            # Others may be mounted in it, in places that are to be made: it is closed last.
            closes = kind == "tmpfs" and source_fd < 0 and options.set & api.MOUNT_ATTR_RDONLY
            if closes:
                options.set &= ~api.MOUNT_ATTR_RDONLY
            if source_fd >= 0:
                mount_fd = source_fd
                _prepare_bind(mount_fd, options)
            else:
                if kind == "tmpfs":
                    self._keep_mode(destination, options)
                mount_fd = _new(kind, entry.get("source") or kind, options)
            try:
                for flags, recursive in options.propagation:
                    api.mount_setattr(mount_fd, propagation=flags, recursive=recursive)
                place = destination.rstrip("/") or "/"
                links = kind not in _KERNEL_TYPES and place not in _KERNEL_PLACES
                target = self.target(destination, os.fstat(mount_fd), links)
                self._refuse_procfs(place, target)
                if options.copy_up:
                    from rootless.runtime.inside import copyup  # loaded by the parent

                    if kind != "tmpfs":
                        raise RlessError("option tmpcopyup is for a tmpfs")
                    copyup.copy(target, mount_fd)
                try:
                    api.move_mount(mount_fd, target)
                except SyscallError as error:
                    if error.errno == errno.EINVAL:
                        refuse_mismatch(entry.get("source") or kind, mount_fd, target)
                    raise
                os.close(target)
                if kind == "proc" or entry.get("source") == "/proc":
                    self._proc_devices.add(os.fstat(mount_fd).st_dev)
                if closes:
                    self._closing.append(os.dup(mount_fd))
            finally:
                os.close(mount_fd)
        except RlessError as error:
            raise error.within(f"cannot mount {destination}") from error

    def _keep_mode(self, destination: str, options: Options) -> None:
        """Give a tmpfs the mode of the directory it covers, if there is one and none is asked."""
        if any(key == "mode" for key, _ in options.data):
            return
        try:
            place = self.open(destination)
        except SyscallError:
            return
        options.data.append(("mode", f"{stat.S_IMODE(os.fstat(place).st_mode):o}"))
        os.close(place)

    def _remount(self, destination: str, options: Options) -> None:
        """Change the attributes of a mount that is there."""
        if options.data:
            raise RlessError(f"option {options.data[0][0]} cannot be changed by a remount")
        target = self.open(destination)
        try:
            _set_attributes(target, options.set, options.clear, recursive=False)
            for flags, recursive in options.propagation:
                api.mount_setattr(target, propagation=flags, recursive=recursive)
        except SyscallError as error:
            if error.errno == errno.EINVAL:
                raise RlessError("there is no mount to remount") from error
            raise
        finally:
            os.close(target)

    def target(self, destination: str, source: os.stat_result, links: bool = True) -> int:
        """Open the mount point beneath the root, making it if it is missing.

        Args:
            source: of what will be mounted there: a directory, or anything else.
            links: follow symbolic links, inside the root.
        """
        resolve = IN_ROOT if links else RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        try:
            return openat2(self.fd, destination, os.O_PATH, resolve=resolve)
        except SyscallError as error:
            if error.errno == errno.ELOOP and not links:
                raise RlessError("the image has a symbolic link there") from error
            if error.errno != errno.ENOENT:
                raise
        make = make_dirs if stat.S_ISDIR(source.st_mode) else make_file
        return make(self.fd, destination, resolve=resolve)

    def _refuse_procfs(self, destination: str, target: int) -> None:
        """Refuse to cover a part of our procfs: what the kernel shows there must be true."""
        if os.fstat(target).st_dev in self._proc_devices and destination not in _PROC_FILES:
            raise RlessError("the target lies in /proc")

    def mask(self, paths: list[str], null_fd: int) -> None:
        """Hide paths: files under the host's /dev/null, directories under one empty tmpfs.

        A path that does not exist needs no mask.
        """
        empty = file = -1
        for path in dict.fromkeys(paths):
            try:
                target = self.open(path)
            except SyscallError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                raise
            if stat.S_ISDIR(os.fstat(target).st_mode):
                if empty < 0:
                    empty = cover = api.new_mount("tmpfs", _EMPTY_TMPFS, _EMPTY_ATTRIBUTES)
                else:
                    cover = api.open_tree(empty, b"", recursive=False)
            elif file < 0:
                file = cover = api.open_tree(null_fd, b"", recursive=False)
                api.mount_setattr(cover, propagation=api.MS_PRIVATE)
            else:
                cover = api.open_tree(file, b"", recursive=False)
            api.move_mount(cover, target)
            os.close(target)
            if cover not in (empty, file):
                os.close(cover)
        for fd in {empty, file} - {-1}:
            os.close(fd)

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


def refuse_mismatch(source: str, source_fd: int, target: int) -> None:
    """Refuse a directory on a file, or the reverse, to which the kernel says EINVAL only.

    Args:
        source: its name, for the message.
    """
    what = "a directory" if stat.S_ISDIR(os.fstat(source_fd).st_mode) else "a file"
    there = "a directory" if stat.S_ISDIR(os.fstat(target).st_mode) else "a file"
    if what != there:
        raise RlessError(
            f"{source} is {what}, and the target is {there}",
            "check that the host path exists: a directory and a file cannot be mounted onto each "
            "other",
        )


def _prepare_bind(tree: int, options: Options) -> None:
    # Options of the file system are ignored, as by mount(2): they are those of its first mount.
    if not options.propagation:
        api.mount_setattr(tree, propagation=api.MS_PRIVATE, recursive=True)
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
        times = bits & (api.MOUNT_ATTR_ATIME_MASK | api.MOUNT_ATTR_NODIRATIME)
        if error.errno != errno.EPERM or not (clear or times):
            raise
        api.mount_setattr(tree, set_=bits & ~times, recursive=recursive)


def _new(fstype: str, source: str, options: Options) -> int:
    """Return a new mount of `fstype`, detached.

    Args:
        source: for these file systems only a name, which tools show.
    """
    attributes = options.set | options.recursive_set
    if fstype in ("cgroup", "cgroup2"):
        return _new_cgroup(attributes, options.data)
    try:
        return api.new_mount(fstype, [("source", source), *options.data], attributes)
    except SyscallError as error:
        if error.errno == errno.EPERM and fstype == "sysfs":
            return _host_sys(attributes)
        if error.errno == errno.EPERM and fstype in _HINTS:
            raise RlessError(*_HINTS[fstype]) from error
        if error.errno == errno.ENODEV:
            raise RlessError(f"this kernel has no file system {fstype}") from error
        raise


def _host_sys(attributes: int) -> int:
    """Return the host's /sys, as runc and crun show it where a network namespace is shared.

    Raises:
        RlessError: it cannot be bound either.
    """
    try:
        tree = api.open_tree(AT_FDCWD, "/sys")
        api.mount_setattr(tree, propagation=api.MS_PRIVATE, recursive=True)
        _set_attributes(tree, attributes & ~api.MOUNT_ATTR_ATIME_MASK, 0, recursive=True)
        return tree
    except SyscallError as error:
        raise RlessError(*_HINTS["sysfs"]) from error


def _new_cgroup(attributes: int, data: list[tuple[str, str | None]]) -> int:
    """Return a mount that shows the control groups: ours alone, else the host's, else nothing.

    Raises:
        SyscallError: the kernel does not know an option.
    """
    try:
        return api.new_mount("cgroup2", [("source", "cgroup2"), *data], attributes)
    except SyscallError as error:
        if data and error.errno == errno.EINVAL:
            raise
        # The cgroup namespace is the host's, or there is no unified hierarchy.
    try:
        tree = api.open_tree(AT_FDCWD, "/sys/fs/cgroup")
        api.mount_setattr(tree, propagation=api.MS_PRIVATE, recursive=True)
        _set_attributes(tree, attributes & ~api.MOUNT_ATTR_ATIME_MASK, 0, recursive=True)
        return tree
    except SyscallError:
        return api.new_mount("tmpfs", [("size", "0"), ("mode", "555")], attributes)


def option_names() -> list[str]:
    """Return the mount options that are understood, for `features`."""
    others = ("bind", "rbind", "remount", "tmpcopyup")
    return sorted([*_ATTRIBUTES, *_RECURSIVE_ATTRIBUTES, *_PROPAGATION, *_NO_EFFECT, *others])
