"""Read facts of this host: the kernel, its limits, programs, mounts, control groups.

This module only reads: `probe` tries, and `checks` judges. Functions that parse text are pure. A
file that is absent or unreadable is a fact too, and is returned as None.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from rootless.linux import programs

CAP_SETGID = 6
CAP_SETUID = 7
_LIMIT = 1 << 20


def read(path: str) -> str | None:
    """Return the text of a small file of the kernel or the administrator, None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT).decode("utf-8", "replace")
    except OSError:
        return None


def sysctl(name: str) -> int | None:
    """Return an integer sysctl, as `user.max_user_namespaces`; None: this kernel has none."""
    text = read(f"/proc/sys/{name.replace('.', '/')}")
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()  # isdigit alone takes "²" too


def parse_status(text: str) -> dict[str, str]:
    """Return the fields of a /proc/PID/status (proc(5)), as NoNewPrivs and Seccomp."""
    fields = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in fields if colon}


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo (proc(5))."""

    root: str
    target: str
    fstype: str
    source: str
    options: frozenset[str]


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts of a mountinfo text, in its order; lines not understood are left out."""
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        first, last = left.split(" "), right.split(" ")
        if not dash or len(first) < 6 or len(last) < 2:
            continue
        mounts.append(
            Mount(
                root=_unescape(first[3]),
                target=_unescape(first[4]),
                fstype=last[0],
                source=_unescape(last[1]),
                options=frozenset(first[5].split(",")),
            )
        )
    return mounts


def mounts() -> list[Mount]:
    """Return the mounts that this process sees."""
    return parse_mountinfo(read("/proc/self/mountinfo") or "")


def mount_of(path: str, table: list[Mount]) -> Mount | None:
    """Return the mount that holds an absolute path without links: the deepest, the last of them."""
    found = None
    for mount in table:
        base = mount.target.rstrip("/")
        if (path == base or path.startswith(base + "/")) and (
            found is None or len(mount.target) >= len(found.target)
        ):
            found = mount
    return found


# What other machines, or programs in user space, keep: no subordinate owners, weak locks, often
# no extended attributes, and no upper layer of an overlay.
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 lustre gpfs beegfs ceph cifs smb3 smbfs 9p afs panfs pvfs2 orangefs glusterfs "
    "fuse.sshfs fuse.glusterfs fuse.ceph fuse.juicefs fuse.s3fs fuse.rclone vboxsf".split()
)


def parse_file_capability(value: bytes) -> int:
    """Return the permitted set in a security.capability attribute (linux/capability.h) as bits."""
    if len(value) < 12 or value[3] not in (2, 3):  # VFS_CAP_REVISION_2, _3; little endian
        return 0
    low = int.from_bytes(value[4:8], "little")
    high = int.from_bytes(value[12:16], "little")
    return low | high << 32


def file_capabilities(path: str) -> int:
    """Return the permitted capabilities that executing `path` gives, as bits; 0: none."""
    try:
        return parse_file_capability(os.getxattr(path, "security.capability"))
    except OSError:
        return 0


def privilege_of(path: str, capability: int) -> str | None:
    """Return how executing `path` gives root's right to map ids: "setuid", "file capability".

    None: it does not, and newuidmap will be refused by the kernel.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return "setuid"
    if file_capabilities(path) >> capability & 1:
        return "file capability"
    return None


def is_nosuid(path: str) -> bool:
    """Tell whether set-id bits and file capabilities are ignored where `path` lies."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOSUID)
    except OSError:
        return False


def library_in_cache(cache: bytes, soname: str) -> bool:
    """Tell whether the text of /etc/ld.so.cache lists a shared library (ld.so(8))."""
    return b"\0" + soname.encode() + b"\0" in cache


def find_library(*sonames: str) -> str | None:
    """Return the first of these shared libraries that is installed, without loading it."""
    try:
        with open("/etc/ld.so.cache", "rb") as file:
            cache = file.read(16 << 20)
    except OSError:
        cache = b""
    machine = os.uname().machine
    directories = (f"/usr/lib/{machine}-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64", "/lib")
    for soname in sonames:
        if library_in_cache(cache, soname):
            return soname
        if any(os.path.exists(f"{directory}/{soname}") for directory in directories):
            return soname
    return None


class Cgroups(NamedTuple):
    """The control groups of a process.

    Attributes:
        layout: "v2", "hybrid" (v1 controllers beside an empty v2), "v1" or "none".
        path: the directory of the process in the v2 hierarchy; None: there is none, or the
            mount does not show it.
        controllers: what that directory offers.
    """

    layout: str
    path: str | None
    controllers: tuple[str, ...]


def locate_cgroup(membership: str, table: list[Mount]) -> tuple[str, str | None]:
    """Return (layout, v2 directory) from the text of /proc/PID/cgroup and the mounts."""
    types = {mount.fstype for mount in table}
    if "cgroup2" not in types:
        return ("v1" if "cgroup" in types else "none", None)
    layout = "hybrid" if "cgroup" in types else "v2"
    for line in membership.splitlines():
        if not line.startswith("0::"):
            continue
        group = line[3:]
        for mount in table:
            if mount.fstype != "cgroup2":
                continue
            base = mount.root.rstrip("/")
            if group == base or group.startswith(base + "/") or not base:
                return layout, (mount.target + group[len(base) :]).rstrip("/")
    return layout, None


def cgroups() -> Cgroups:
    """Return the control groups of this process."""
    layout, path = locate_cgroup(read("/proc/self/cgroup") or "", mounts())
    offered = (read(f"{path}/cgroup.controllers") or "") if path else ""
    return Cgroups(layout, path, tuple(offered.split()))


def is_delegated(path: str) -> bool:
    """Tell whether a cgroup was handed to the caller: it can make groups and move processes."""
    return all(
        os.access(name, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        for name in (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
    )


_LOGIND = ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd")


def ask_logind(name: str) -> bool | None:
    """Return whether logind ends all processes of this user's sessions; None: it does not say.

    Its default was chosen when it was built, so no file tells.

    Source: org.freedesktop.login1(5); logind.conf(5).
    """
    import subprocess

    program = programs.find("loginctl")
    if program is None:
        return None
    properties = [
        f"--property=Kill{what}" for what in ("UserProcesses", "OnlyUsers", "ExcludeUsers")
    ]
    try:
        done = subprocess.run(
            [program, "show-session", *properties],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if done.returncode or "KillUserProcesses" not in said:
        return None
    only = said.get("KillOnlyUsers", "").split()
    return (
        said["KillUserProcesses"] == "yes"
        and name not in said.get("KillExcludeUsers", "").split()
        and (not only or name in only)
    )


def kills_user_processes(directories: tuple[str, ...] = _LOGIND) -> bool | None:
    """Return what the files say of KillUserProcesses; None: nothing.

    Source: logind.conf(5): one file, the last of the directories that has it; then the drop-ins
    of all directories by name, of those with the same name the last.
    """
    main = None
    drop_ins: dict[str, str] = {}
    for directory in directories:
        main = read(f"{directory}/logind.conf") or main
        try:
            names = os.listdir(f"{directory}/logind.conf.d")
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                drop_ins[name] = read(f"{directory}/logind.conf.d/{name}") or ""
    found = None
    for text in [main or "", *(drop_ins[name] for name in sorted(drop_ins))]:
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == "KillUserProcesses":
                found = value.strip().lower() in ("1", "yes", "y", "true", "t", "on")
    return found


UNCONFINED = "unconfined_t"


def selinux_type() -> str:
    """Return the SELinux type of this process where policy is enforced, "" elsewhere."""
    if (read("/sys/fs/selinux/enforce") or "").strip("\0\n") != "1":
        return ""
    fields = (read("/proc/self/attr/current") or "").strip("\0\n").split(":")
    return fields[2] if len(fields) > 2 else ""


def apparmor_profile() -> str:
    """Return the AppArmor profile that confines this process, "" if none does."""
    label = (read("/proc/self/attr/apparmor/current") or "").strip("\0\n")
    return label.removesuffix(" (enforce)") if label.endswith(" (enforce)") else ""


def inside_container() -> str | None:
    """Return what says that this process is in a container already; None: nothing does."""
    for path in ("/run/.containerenv", "/.dockerenv"):
        if os.path.exists(path):
            return path
    manager = read("/run/systemd/container")
    return f"systemd: {manager.strip()}" if manager else None


def user_name(uid: int) -> str | None:
    """Return the login name of a uid; None: it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def next_free_range(text: str, length: int = 65536) -> tuple[int, int]:
    """Return (first, last) of a range that the text of a subuid(5) file gives to nobody."""
    first = 100000
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2]):
            first = max(first, int(fields[1]) + int(fields[2]))
    return first, first + length - 1
