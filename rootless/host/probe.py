"""Try what cannot be found out by reading: namespaces, id maps, mounts, drivers.

Every probe runs in a forked child with a deadline, in namespaces of its own. So a hung NFS server
or directory service cannot hang the caller, and nothing stays mounted. Files are made in one
private directory, which the caller removes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time

from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, mount, ns, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SECONDS = 10.0


class Outcome:
    """What came of a probe: its result, or why it failed.

    Attributes:
        result: what the function returned; None if it failed.
        error: the reason, one line; "" if it did not fail.
        number: the errno behind the reason, 0 if there is none.
    """

    __slots__ = ("error", "number", "result")

    def __init__(self, result: Any = None, error: str = "", number: int = 0) -> None:
        self.result = result
        self.error = error
        self.number = number

    def __bool__(self) -> bool:
        return not self.error


def bounded(function: Callable[..., Any], *args: object, seconds: float = SECONDS) -> Outcome:
    """Run `function(*args)` in a child for at most so many seconds; it never raises.

    The result must be JSON-able. The child and all that it started are killed at the deadline.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setpgid(0, 0)
        _answer(writer, function, args)
    os.close(writer)
    deadline = time.monotonic() + seconds
    text = b""
    late = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            late = True
            break
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        text += chunk
    os.close(reader)
    for target in (-pid, pid):  # before setpgid has run, the group does not exist
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
    if not _reap(pid):
        late = True  # stuck in the kernel, as on a dead NFS server: it cannot even be killed
    if late:
        return Outcome(error=f"no answer within {seconds:g} s", number=errno.ETIMEDOUT)
    try:
        return Outcome(*json.loads(text))
    except ValueError:
        return Outcome(error="the probe died")


def _reap(pid: int) -> bool:
    for _ in range(50):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


def _answer(writer: int, function: Callable[..., Any], args: tuple[object, ...]) -> None:
    answer: list[Any] = [None, "the probe was interrupted", 0]
    try:
        prctl.set_parent_death_signal(signal.SIGKILL)
        answer = [function(*args), "", 0]
    except SyscallError as error:
        answer = [None, error.message, error.errno]
    except RlessError as error:
        answer = [None, error.message, 0]
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        answer = [None, f"{name}{error.strerror}", error.errno or 0]
    except BaseException as error:
        answer = [None, f"{type(error).__name__}: {error}", 0]
    finally:
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)


def _enter(flags: int) -> None:
    """Move this child into a user namespace with the caller's ids mapped to root, and others."""
    uid, gid = os.geteuid(), os.getegid()
    ns.unshare(ns.CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    if flags & ns.CLONE_NEWNS:
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)


def user_namespace() -> str:
    """Make a user namespace and use it: a mount needs a capability that it gives.

    unshare alone proves nothing: on Ubuntu 23.10 and later it succeeds and gives no rights.
    """
    _enter(ns.CLONE_NEWNS)
    mount.mount("none", "/", "tmpfs", 0, "size=4k")
    return "made and used"


def kernel_mounts() -> dict[str, str]:
    """Mount what a container needs in new namespaces; return the reason of each that failed.

    proc and sysfs are refused (EPERM) where the ones of the host have masks, as in Docker.
    """
    flags = ns.CLONE_NEWPID | ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS
    _enter(ns.CLONE_NEWNS | ns.CLONE_NEWCGROUP | flags)
    reader, writer = os.pipe()
    pid = os.fork()  # proc belongs to the pid namespace, which starts with the first child
    if pid == 0:
        failures = {}
        for fstype in ("proc", "sysfs", "mqueue", "devpts", "tmpfs"):
            try:
                os.close(mount.new_mount(fstype))
            except RlessError as error:
                failures[fstype] = error.message
        os.write(writer, json.dumps(failures).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    result: dict[str, str] = json.loads(text)
    return result


def bridges() -> str:
    """Make what networks of several containers are made of; return why there is no way out, or "".

    pyroute2 makes them here, since nobody waits for a start. The kernel loads the modules for an
    ordinary user too, if it has them.

    Raises:
        OSError: there are no bridges, or no pairs of interfaces.
    """
    from pyroute2 import IPRoute, NetlinkError
    from pyroute2.nftables.main import NFTables

    _enter(ns.CLONE_NEWNET)
    try:
        with IPRoute() as route:
            route.link("add", ifname="bridge0", kind="bridge")
            route.link("add", ifname="member0", kind="veth", peer={"ifname": "member1"})
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
    try:
        with NFTables(nfgen_family=socket.AF_INET) as rules:
            rules.table("add", name="rless")
            rules.chain("add", table="rless", name="out", hook="postrouting", type="nat", policy=1)
    except NetlinkError as error:
        return os.strerror(error.code)
    return ""


def full_map(uids: list[tuple[int, int]], gids: list[tuple[int, int]]) -> str:
    """Map the caller to root and the subordinate ranges after it, by newuidmap and newgidmap."""
    mapped = idmap.IdMap(_extents(os.getuid(), uids), _extents(os.getgid(), gids), "doctor")
    idmap.call_in_userns(mapped, lambda: None, namespaces=0)
    return "mapped"


def foreign_owner(directory: str, uids: list[tuple[int, int]], gids: list[tuple[int, int]]) -> str:
    """Give a file in `directory` to the first subordinate ids, as unpacking an image does."""
    path = f"{directory}/owner"
    mapped = idmap.IdMap(_extents(os.getuid(), uids), _extents(os.getgid(), gids), "doctor")

    def give() -> None:
        with open(path, "wb"):
            os.chown(path, 1, 1)

    idmap.call_in_userns(mapped, give, namespaces=0)
    os.unlink(path)
    return "given"


def _extents(own: int, ranges: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    extents = [(0, own, 1)]
    for start, count in ranges:
        first = extents[-1][0] + extents[-1][2]
        extents.append((first, start, count))
    return extents


def _make_layers(directory: str) -> None:
    os.chdir(directory)  # relative names: a path with a comma or colon would need escapes
    for name in ("lower", "lower/dir", "upper", "work", "merged"):
        os.mkdir(name, 0o700)
    with open("lower/file", "w", encoding="ascii") as file:
        file.write("lower")


def _use_overlay() -> None:
    """Do in ./merged what container builds do: change, delete, and rename a lower directory."""
    with open("merged/new", "w", encoding="ascii") as file:
        file.write("new")
    os.unlink("merged/file")  # leaves a whiteout in upper
    os.rmdir("merged/dir")
    os.mkdir("merged/dir", 0o700)  # opaque: needs user.* extended attributes


def kernel_overlay(directory: str) -> str:
    """Mount the kernel's overlayfs in a user namespace over layers in `directory`, and use it."""
    _make_layers(directory)
    _enter(ns.CLONE_NEWNS)
    options = "lowerdir=lower,upperdir=upper,workdir=work,userxattr"
    mount.mount("overlay", "merged", "overlay", 0, options)
    _use_overlay()
    return "mounted and used"


def fuse_overlay(directory: str, program: str) -> str:
    """Mount fuse-overlayfs in a user namespace over layers in `directory`, and use it."""
    _make_layers(directory)
    device = os.stat("merged").st_dev
    _enter(ns.CLONE_NEWNS)
    options = "lowerdir=lower,upperdir=upper,workdir=work"
    with subprocess.Popen(
        [program, "-f", "-o", options, "merged"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    ) as server:
        try:
            for _ in range(300):
                if os.stat("merged").st_dev != device:
                    break
                if server.poll() is not None and server.stderr is not None:
                    said = server.stderr.read().decode("utf-8", "replace").strip()
                    raise RlessError(said.splitlines()[-1] if said else "it ended at once")
                time.sleep(0.01)
            else:
                raise RlessError("it did not mount within 3 s")
            _use_overlay()
        finally:
            server.kill()
    return "mounted and used"


def user_xattr(directory: str) -> str:
    """Set a user.* extended attribute on a file in `directory`."""
    path = f"{directory}/xattr"
    with open(path, "wb"):
        os.setxattr(path, "user.rless.doctor", b"1")
    os.unlink(path)
    return "work"


def locks(directory: str) -> str:
    """Lock a file in `directory` against a second opening, link it, and rename over it."""
    path = f"{directory}/lock"
    first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise RlessError("a lock is given twice")
        os.link(path, f"{path}-2")
        os.rename(f"{path}-2", f"{path}-3")
        os.rename(f"{path}-3", path)
    finally:
        os.close(first)
        os.close(second)
        for name in (path, f"{path}-2", f"{path}-3"):
            if os.path.lexists(name):
                os.unlink(name)
    return "work"


def space(directory: str) -> tuple[int, int, int]:
    """Return (free bytes, free inodes, mount flags) for the caller; -1 inodes: not counted."""
    info = os.statvfs(directory)
    inodes = info.f_favail if info.f_files else -1
    return info.f_bavail * info.f_frsize, inodes, info.f_flag


def device(path: str) -> str:
    """Open a device for reading and writing, as the program that needs it does."""
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return "opens"


def version(program: str) -> str:
    """Return the first line of what `program --version` says; "" if it says nothing into a pipe.

    That of Debian 13's pasta (2025-05) does so: it has no standard output any more by then.
    """
    done = subprocess.run(
        [program, "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        check=False,
    )
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if not lines and done.returncode != 0:
        raise RlessError(f"{program} --version says nothing (status {done.returncode})")
    return lines[0] if lines else ""


def remove(directory: str) -> None:
    """Remove a directory of probes; overlayfs leaves a work directory without any permission."""
    try:
        os.chmod(directory, 0o700)
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove(entry.path)
        else:
            try:
                os.unlink(entry.path)
            except OSError:
                pass
    try:
        os.rmdir(directory)
    except OSError:
        pass
