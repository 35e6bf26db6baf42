"""The files that every container gets from the engine, and the devices that a request names.

The files are written in the container's own directory. A start copies them into a tmpfs, and binds
the copies by descriptor, because /proc/self/mountinfo tells the container where a bound file is on
its file system (security class 34). Nothing is ever written through a path of the image (security
class 29).
"""

from __future__ import annotations

import os
import stat

from rootless.engine.spec import network_mode
from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as mounts
from rootless.linux.openat2 import openat2
from rootless.linux.process import cannot_execute, own_program
from rootless.network import resolv
from rootless.rootfs import Mounted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rootless.engine.request import Device, RunRequest

_LOCALTIME = "/etc/localtime"
_SHOWN = "shown"  # a directory of the container's, for the tmpfs
_TMPFS = "size=8m,nr_inodes=32,mode=700"
_COPY_BLOCK = 1 << 20
_TEXT_LIMIT = 1 << 20  # bytes


def write(
    request: RunRequest,
    directory: str,
    hostname: str,
    *,
    hosts: Sequence[tuple[str, str]] = (),
    addresses: Sequence[str] = (),
    servers: Sequence[str] = (),
    way_out: bool = True,
) -> dict[str, str]:
    """Write /etc/hosts, hostname and resolv.conf; return path inside -> file outside.

    Args:
        hosts: (name, address) of other containers, beside those of --add-host.
        addresses: the container's own, where they are known.
        servers: name servers of its networks, in place of the host's.
        way_out: its networks are not all internal.

    Raises:
        RlessError: a name or an address that cannot be in these files.
    """
    of_host = request.uses_host_network()
    own_name = hostname or os.uname().nodename
    added = [*request.add_host, *hosts]
    if any(target == network_mode.HOST_GATEWAY for _, target in added):
        host_address = network_mode.host_address(request)
        added = [
            (name, host_address if target == network_mode.HOST_GATEWAY else target)
            for name, target in added
        ]
    texts = {
        "/etc/hostname": resolv.hostname_text(own_name),
        "/etc/resolv.conf": resolv.resolv_text(
            resolv.read_host(),
            servers or request.dns,
            request.dns_search,
            resolv.options_for_names(request.dns_option) if servers else request.dns_option,
            private_network=not of_host,
        ),
    }
    if not request.no_hosts:
        added += network_mode.hosts_of_host(request, added, way_out)
        texts["/etc/hosts"] = resolv.hosts_text(
            own_name,
            request.domainname,
            added,
            addresses or ([request.ip] if request.ip else ()),
            _read("/etc/hosts") if of_host else None,
        )
    files = {}
    for path, text in texts.items():
        files[path] = f"{directory}/{path.rpartition('/')[2]}"
        put(files[path], text)
    return files


def shown(directory: str, file: str) -> str:
    """Return where the copy of a file is that the container `directory` is of gets to see.

    Below containers/ID of the tmpfs: programs find out by /proc/self/mountinfo in which container
    they are, and look for "/containers/ID/hostname", as Docker has it.
    """
    identifier = directory.rpartition("/")[2]
    return f"{directory}/{_SHOWN}/containers/{identifier}/{file.rpartition('/')[2]}"


def show(directory: str, files: Iterable[str]) -> Mounted:
    """Copy files to where `shown` says, with their modes; return the tmpfs there.

    Where it runs: in the mount namespace of the container's monitor, which the tmpfs ends with.
    """
    place = f"{directory}/{_SHOWN}"
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        pass  # of an earlier start
    # Named after the container: by that its processes are known (`state.ranks`).
    source = f"rless-{directory.rpartition('/')[2]}"
    mounts.mount(source, place, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, _TMPFS)
    try:
        copies = shown(directory, "")
        for made in (os.path.dirname(copies[:-1]), copies):
            os.mkdir(made, 0o700)
        for file in files:
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _copy(fd, shown(directory, file), os.fstat(fd).st_mode & 0o7777)
            finally:
                os.close(fd)
    except BaseException:
        mounts.umount(place)
        raise
    return Mounted(place, "tmpfs")


def show_again(directory: str, monitor: int, files: Iterable[str]) -> None:
    """Copy files that have changed to where a running container sees them, in place.

    Args:
        monitor: the pid of its monitor.
    """
    view = f"/proc/{monitor}/root{directory}"
    for file in files:
        if os.path.exists(shown(view, file)):
            with open(file, encoding="utf-8", errors="surrogateescape") as text:
                put(shown(view, file), text.read())


def _copy(source_fd: int, target: str, mode: int) -> None:
    """Copy an open file to a new one, with a mode that is set whatever the umask."""
    target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        while os.sendfile(target_fd, source_fd, None, _COPY_BLOCK):
            pass
        os.fchmod(target_fd, mode)
    finally:
        os.close(target_fd)


def put(file: str, text: str) -> None:
    """Write one of these files, in place: what binds the file keeps it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(file, flags, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever the umask: every user of the container reads them
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def of_other(directory: str) -> dict[str, str]:
    """Return the files of another container, whose network we join: its names are ours."""
    names = ("hosts", "hostname", "resolv.conf")
    found = {f"/etc/{name}": f"{directory}/{name}" for name in names}
    return {path: file for path, file in found.items() if os.path.exists(file)}


def write_users(
    directory: str, ids: tuple[int, int], passwd: bytes, group: bytes, user_home: str | None = None
) -> None:
    """Write the image's passwd and group with the invoking user in them, if she is not there.

    What runs as a number without a name fails often: ssh, MPI's launchers, `whoami`.

    Args:
        ids: uid and gid in the container.
        user_home: her home directory there; None: that of the host.
    """
    import grp
    import pwd

    uid, gid = ids
    try:
        entry = pwd.getpwuid(os.getuid())
        name, about, home = entry.pw_name, entry.pw_gecos, entry.pw_dir
    except KeyError:
        name, about, home = f"user{uid}", "", "/"
    try:
        group_name = grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        group_name = name
    name, group_name = "root" if uid == 0 else name, "root" if gid == 0 else group_name
    user = f"{name}:x:{uid}:{gid}:{about}:{user_home or home}:/bin/sh\n"
    for file, text, number, line in (
        ("passwd", passwd, uid, user),
        ("group", group, gid, f"{group_name}:x:{gid}:\n"),
    ):
        ids_there = {fields[2] for row in text.split(b"\n") if len(fields := row.split(b":")) > 2}
        if str(number).encode() in ids_there:
            continue
        new = text if not text or text.endswith(b"\n") else text + b"\n"
        fd = os.open(
            f"{directory}/{file}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
        )
        with open(fd, "wb") as stream:
            os.fchmod(fd, 0o644)
            stream.write(new + os.fsencode(line))


def place_localtime(root: str) -> None:
    """Give a root file system the host's time zone, as a file of its own.

    Not by a mount: behind a link to /usr/share/zoneinfo it would give a zone the time of another. A
    host without the file, and an image with a directory there, stay as they are.

    Args:
        root: the mounted root, with a writable layer of the container's.
    """
    try:
        with open(_LOCALTIME, "rb") as file:
            text = file.read(_TEXT_LIMIT)
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not _has_localtime(root_fd, text):
            etc_fd = openat2(root_fd, "etc", os.O_RDONLY | os.O_DIRECTORY)
            try:
                _put_at(etc_fd, _LOCALTIME.rpartition("/")[2], text)
            finally:
                os.close(etc_fd)
    except (OSError, SyscallError):
        pass  # a directory, a full disk: it is no reason to fail
    finally:
        os.close(root_fd)


def _has_localtime(root_fd: int, text: bytes) -> bool:
    try:
        fd = openat2(root_fd, _LOCALTIME, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except SyscallError:
        return False
    with open(fd, "rb") as file:
        return stat.S_ISREG(os.fstat(fd).st_mode) and file.read(_TEXT_LIMIT) == text


def _put_at(dir_fd: int, name: str, text: bytes) -> None:
    """Put a file in the place of another, or of a link."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o644, dir_fd=dir_fd)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, text)
    finally:
        os.close(fd)


def users(directory: str) -> dict[str, str]:
    """Return path inside -> file outside of what `write_users` has written."""
    found = {f"/etc/{name}": f"{directory}/{name}" for name in ("passwd", "group")}
    return {path: file for path, file in found.items() if os.path.exists(file)}


def _read(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(_TEXT_LIMIT).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def place_init(directory: str) -> str:
    """Copy our init program into the container's directory; return its path.

    A copy for each container: whatever a hostile root does to it hurts no other. Where nothing may
    be executed from the storage it is the installed program itself, if that is not the user's: no
    id of a container can write to it then.

    Raises:
        RlessError: the installation is broken; or neither the storage nor the installation may be
            used.
    """
    source = own_program("rless-init")
    target = f"{directory}/init"
    try:
        source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_execute("rless-init", error) from error
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        status = os.fstat(source_fd)
        barred = os.fstatvfs(source_fd).f_flag & os.ST_NOEXEC
        os.close(source_fd)
        if status.st_uid == 0 != os.getuid() and not status.st_mode & 0o022 and not barred:
            return source
        raise RlessError(
            f"--init and --join are not available: {directory} is mounted with noexec",
            "let the administrator install rless, or set RLESS_STORAGE to another file system",
        )
    try:
        os.unlink(target)  # of an earlier start
    except FileNotFoundError:
        pass
    try:
        _copy(source_fd, target, 0o755)
    finally:
        os.close(source_fd)
    return target


def check_devices(devices: Iterable[Device]) -> None:
    """Check the host paths of devices.

    Raises:
        RlessError: one is missing, or is no device.
    """
    for device in devices:
        try:
            mode = os.stat(device.host).st_mode
        except OSError as error:
            raise RlessError(f"device {device.host}: {error.strerror}") from error
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
            raise RlessError(f"device {device.host}: it is not a device")
