"""Judge facts and probes: what each one means for `rless run`, and how to change it.

These are pure functions of facts and outcomes; `doctor` calls them. `fail` means that `rless run`
without options does not work, `warn` that a feature is missing.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from rootless.host import facts, hints, packages
from rootless.host import tun as tun_device
from rootless.linux.call import KERNEL_FLOOR, KERNELS, parse_release
from rootless.linux.cgroup import DELEGATE_FILE, DELEGATE_TEXT

if TYPE_CHECKING:
    from rootless.host.probe import Outcome

PYTHON_FLOOR = (3, 10)
FULL_RANGE = 65536
LITTLE_SPACE = 2 << 30  # bytes: one larger image
FEW_INODES = 100_000

OK, WARN, FAIL = "ok", "warn", "fail"


class Check(NamedTuple):
    """One thing that was looked at; `meaning` and `fix` are "" where there is nothing to say."""

    id: str
    status: str
    fact: str
    meaning: str = ""
    fix: str = ""


def check_python(version: tuple[int, int], executable: str) -> Check:
    """Judge the interpreter."""
    text = ".".join(map(str, version))
    fact = f"Python {text} ({executable})"
    if version >= PYTHON_FLOOR:
        return Check("python", OK, fact)
    return Check("python", FAIL, fact, "rless needs Python 3.10 or later", packages.newer_python())


def check_kernel(release: str) -> Check:
    """Judge the kernel's version."""
    version = parse_release(release)
    if version >= KERNEL_FLOOR:
        return Check("kernel", OK, f"Linux {release}")
    floor = ".".join(map(str, KERNEL_FLOOR))
    return Check(
        "kernel",
        FAIL,
        f"Linux {release}",
        f"system calls that rless needs are missing before {floor} (mount_setattr)",
        f"boot a newer kernel of the distribution; that of {KERNELS} is new enough",
    )


def check_confinement(status: dict[str, str]) -> Check:
    """Judge what this process was forbidden by whoever started it."""
    limits = []
    if status.get("NoNewPrivs") == "1":
        limits.append("no_new_privs")
    if status.get("Seccomp") == "2":
        limits.append("a seccomp filter")
    container = facts.inside_container()
    if container:
        limits.append(f"a container ({container})")
    if not limits:
        return Check("confinement", OK, "no sandbox around this process")
    fact = "this process is restricted by " + ", ".join(limits)
    if "no_new_privs" in limits:
        return Check(
            "confinement",
            WARN,
            fact,
            "newuidmap has no effect here: subordinate ids cannot be mapped",
            "start rless outside of the sandbox or service that sets no_new_privs",
        )
    return Check("confinement", OK, fact, "the probes below tell whether it allows containers")


def check_userns(outcome: Outcome) -> Check:
    """Judge the probe of a user namespace."""
    limit = facts.sysctl("user.max_user_namespaces")
    if outcome:
        return Check("userns", OK, f"user namespaces can be made and used (limit {limit})")
    why, hint = hints.hint_for_userns_failure(outcome.number)
    if hint is hints.PROFILE_WANTED:
        hint = (
            "the administrator saves this as /etc/apparmor.d/rless:\n"
            + hints.apparmor_profile(hints.launchers())
            + hints.APPARMOR_COMMANDS
        )
    return Check("userns", FAIL, outcome.error, why, hint)


def check_kernel_mounts(outcome: Outcome) -> Check:
    """Judge the probe of the kernel's file systems in new namespaces."""
    if not outcome:
        why, hint = hints.hint_for_userns_failure(outcome.number)
        return Check("mounts", FAIL, outcome.error, why, hint)
    failures: dict[str, str] = outcome.result
    if not failures:
        return Check("mounts", OK, "proc, sysfs, mqueue, devpts and tmpfs can be mounted")
    fact = "; ".join(f"{fstype}: {why}" for fstype, why in failures.items())
    if set(failures) == {"mqueue"}:
        return Check("mounts", WARN, fact, "containers have no /dev/mqueue", "")
    return Check(
        "mounts",
        FAIL,
        fact,
        "a container cannot get its own /proc or /sys"
        + (": parts of the host's are covered" if "proc" in failures else ""),
        "start the outer container with --security-opt systempaths=unconfined"
        if facts.inside_container()
        else "unmount what lies on files below /proc and /sys of the host",
    )


def check_idmap_program(
    name: str, capability: int, path: str | None, is_installed: bool = False
) -> Check:
    """Judge newuidmap or newgidmap.

    Args:
        is_installed: one of the two is there, and so the package, which has both.
    """
    fix = packages.command("uidmap", again=is_installed)
    lost = "only one id can be mapped: all files of a container belong to one user in it"
    if path is None:
        return Check(name, WARN, "not installed", lost, fix)
    how = facts.privilege_of(path, capability)
    if how is None:
        repair = f"sudo chmod u+s {path}"
        return Check(name, WARN, f"{path} has no privilege (not setuid root)", lost, repair)
    if facts.is_nosuid(path):
        fact = f"{path} is {how}, but lies on a nosuid mount"
        return Check(name, WARN, fact, lost, "remount it without nosuid")
    return Check(name, OK, f"{path} ({how})")


def check_subids(
    kind: str, ranges: list[tuple[int, int]], name: str, text: str, *, has_libsubid: bool
) -> Check:
    """Judge the subordinate ids of a user.

    Args:
        kind: "uid" or "gid".
        name: the user's login name, for the fix.
        text: /etc/subuid or /etc/subgid, to propose a range that is free.
    """
    identity = f"sub{kind}"
    total = sum(count for _, count in ranges)
    first, last = facts.next_free_range(text)
    fix = f"sudo usermod --add-sub{kind}s {first}-{last} {name}"
    if not ranges:
        meaning = "only one id is mapped: images whose files have several owners are flattened"
        if "subid:" in (facts.read("/etc/nsswitch.conf") or "") and not has_libsubid:
            meaning += "; /etc/nsswitch.conf names a subid source, but libsubid is not installed"
            fix = packages.command("libsubid4")
        return Check(identity, WARN, f"{name} has no subordinate {kind}s", meaning, fix)
    shown = ", ".join(f"{start}+{count}" for start, count in ranges)
    if total < FULL_RANGE:
        return Check(
            identity,
            WARN,
            f"{total} subordinate {kind}s ({shown}): fewer than {FULL_RANGE}",
            f"images with {kind}s above {total} cannot be unpacked with their owners",
            fix,
        )
    return Check(identity, OK, f"{total} subordinate {kind}s ({shown})")


def check_full_map(outcome: Outcome) -> Check:
    """Judge the probe of a map with all subordinate ids."""
    if outcome:
        return Check("idmap", OK, "the subordinate ids can be mapped")
    return Check(
        "idmap",
        FAIL,
        outcome.error,
        "the subordinate ids of /etc/subuid and /etc/subgid cannot be mapped",
        "see the lines above",
    )


def check_storage(path: str, mount: facts.Mount | None, outcome: Outcome) -> Check:
    """Judge the file system of the storage and its free space."""
    fstype = mount.fstype if mount else "unknown"
    move = "set RLESS_STORAGE to a directory of yours on a local disk"
    if not outcome:
        return Check("storage", FAIL, f"{path}: {outcome.error}", "nothing can be stored", move)
    free, inodes, flags = outcome.result
    fact = f"{path} on {fstype}, {free / (1 << 30):.1f} GiB free"
    if flags & os.ST_RDONLY:
        return Check("storage", FAIL, f"{path} is mounted read-only", "nothing can be stored", move)
    if fstype in facts.NETWORK_FILE_SYSTEMS:
        meaning = f"{fstype} is slow for many small files and keeps no subordinate owners"
        local = 'put `root = "/local/{user}/rless"` into [storage] of the configuration, or ' + move
        return Check("storage", WARN, fact, meaning, local)
    if free < LITTLE_SPACE or 0 <= inodes < FEW_INODES:
        fact += f", {inodes} inodes" if inodes >= 0 else ""
        return Check("storage", WARN, fact, "larger images do not fit", "free space, or " + move)
    if flags & os.ST_NOEXEC:
        meaning = "programs of a container may not start from a noexec mount"
        return Check("storage", WARN, fact + ", noexec", meaning, move)
    if fstype in ("tmpfs", "ramfs"):
        meaning = "images take memory and are gone after a reboot"
        return Check("storage", WARN, fact, meaning, move)
    return Check("storage", OK, fact)


def check_owners(outcome: Outcome) -> Check:
    """Judge whether files of subordinate owners can be kept in the storage."""
    if outcome:
        return Check("owners", OK, "files of subordinate ids can be stored")
    return Check(
        "owners",
        FAIL,
        f"a file cannot be given to a subordinate id: {outcome.error}",
        "images cannot be unpacked with their owners here",
        "set RLESS_STORAGE to a directory of yours on a local disk",
    )


def check_locks(outcome: Outcome) -> Check:
    """Judge whether commands at the same time can tell each other so."""
    if outcome:
        return Check("locks", OK, "locks and links work on the storage")
    return Check(
        "locks",
        WARN,
        f"locks or links do not work on the storage: {outcome.error}",
        "two commands that pull or remove images at the same time may fail",
        "move the storage to a local disk: `root` in [storage] of the configuration",
    )


def check_image_files(programs: list[str], device: Outcome) -> Check:
    """Judge what runs images that are files; `programs`: those of it that are installed."""
    mounts = any(name.startswith("squashfuse") for name in programs)
    make = "" if "mksquashfs" in programs else "; `flatten` needs mksquashfs"
    if mounts and device:
        return Check("image files", OK, f"squashfs and SIF files are mounted{make}")
    lacking = "squashfuse is not installed" if not mounts else f"/dev/fuse: {device.error}"
    fix = packages.command("squashfuse")
    if mounts:
        fix = "sudo modprobe fuse; sudo chmod 666 /dev/fuse"
    if "unsquashfs" in programs:
        return Check(
            "image files", WARN, lacking, "squashfs and SIF files are unpacked before use", fix
        )
    return Check("image files", WARN, lacking, "squashfs and SIF files cannot be run", fix)


def check_overlay(outcome: Outcome, xattr: Outcome) -> Check:
    """Judge the probe of the kernel's overlayfs."""
    if outcome:
        return Check("overlay", OK, "the kernel's overlayfs works on the storage")
    fact = f"the kernel's overlayfs does not work on the storage: {outcome.error}"
    if not xattr:
        fact += f"; user.* attributes: {xattr.error}"
    return Check("overlay", WARN, fact, "a slower driver is used", "move the storage (ext4, xfs)")


def check_fuse(program: str | None, device: Outcome, outcome: Outcome | None) -> Check:
    """Judge fuse-overlayfs; `outcome` is None where it was not tried."""
    if program is None:
        return Check(
            "fuse-overlayfs",
            WARN,
            "not installed",
            "no fallback where the kernel's overlayfs does not work",
            packages.command("fuse-overlayfs"),
        )
    if not device:
        return Check(
            "fuse-overlayfs",
            WARN,
            f"/dev/fuse: {device.error}",
            "FUSE file systems cannot be mounted",
            "sudo modprobe fuse; sudo chmod 666 /dev/fuse",
        )
    if outcome is None or outcome:
        return Check("fuse-overlayfs", OK, program + (" works" if outcome else " is installed"))
    return Check("fuse-overlayfs", WARN, f"{program}: {outcome.error}", "it cannot be used", "")


def check_driver(overlay: Check, fuse: Check) -> Check:
    """Tell which driver `run` will choose."""
    if overlay.status == OK:
        return Check("driver", OK, "overlay")
    if fuse.status == OK:
        meaning = "each file access goes through a program"
        return Check("driver", OK, "fuse-overlayfs", meaning, overlay.fix)
    meaning = "each container starts with a full copy of its image: slow, and takes space"
    return Check("driver", WARN, "copy", meaning, fuse.fix or overlay.fix)


def check_runtime_dir(value: str | None, uid: int) -> Check:
    """Judge $XDG_RUNTIME_DIR."""
    instead = "rless-oci keeps its state in the storage instead"
    fix = "log in by a way that starts a session (ssh, not su), or unset XDG_RUNTIME_DIR"
    if not value:
        return Check("runtime-dir", OK, "XDG_RUNTIME_DIR is not set", instead)
    name = f"XDG_RUNTIME_DIR={value}"
    if not value.startswith("/"):
        return Check("runtime-dir", WARN, f"{name} is not an absolute path", instead, fix)
    try:
        status = os.lstat(value)
    except OSError as error:
        return Check("runtime-dir", WARN, f"{name}: {error.strerror}", instead, fix)
    if not stat.S_ISDIR(status.st_mode):
        return Check("runtime-dir", WARN, f"{name} is not a directory", instead, fix)
    if status.st_uid != uid:
        fact = f"{name} belongs to uid {status.st_uid}"
        return Check("runtime-dir", WARN, fact, instead, fix)
    if status.st_mode & 0o022:
        fact = f"{name} can be written by others (mode {status.st_mode & 0o7777:04o})"
        return Check("runtime-dir", WARN, fact, instead, f"chmod go-w {value}")
    return Check("runtime-dir", OK, name)


# What it needs is git, make and gcc.
BUILD_PASTA = "git clone https://passt.top/passt && make -C passt prefix=$HOME/.local install"


def check_network(program: str | None, said: Outcome, tun: Outcome) -> Check:
    """Judge pasta, the default network."""
    lost = "containers have no network of their own: use --network=none or --network=host"
    if program is None:
        fix = f"{packages.command('passt')}; where there is none, as on Ubuntu 22.04: {BUILD_PASTA}"
        return Check("network", FAIL, f"pasta: {said.error}", lost, fix)
    if not said:
        return Check("network", FAIL, f"{program}: {said.error}", lost, "install passt again")
    if not tun:
        why, fix = tun_device.hint_for_tun_failure()
        return Check("network", FAIL, f"{tun_device.TUN}: {why} ({tun.error})", lost, fix)
    return Check("network", OK, f"{said.result or 'pasta'} ({program})")


def check_bridges(outcome: Outcome) -> Check:
    """Judge what networks of several containers need of the kernel."""
    name = "bridges"
    if not outcome:
        lost = "containers find each other only by --network=container:NAME"
        return Check(name, WARN, outcome.error, lost, "sudo modprobe -a bridge veth")
    if outcome.result:
        lost = "networks of several containers have no way out: use network create --internal"
        fix = "sudo modprobe -a nf_tables nft_chain_nat nft_masq"
        return Check(name, WARN, f"nf_tables: {outcome.result}", lost, fix)
    return Check(name, OK, "bridges and nf_tables")


def check_seccomp(library: str | None, status: dict[str, str]) -> Check:
    """Judge libseccomp and the kernel's seccomp filters."""
    lost = "system calls of containers cannot be filtered: use --security-opt seccomp=unconfined"
    if "Seccomp" not in status:
        return Check("seccomp", FAIL, "this kernel has no seccomp filters", lost, "")
    if library is None:
        fix = packages.command("libseccomp2")
        return Check("seccomp", FAIL, "libseccomp is not installed", lost, fix)
    return Check("seccomp", OK, library)


_DROP_IN = DELEGATE_TEXT.replace(" ", r"\n", 1) + r"\n"


def check_cgroup(groups: facts.Cgroups, session: str | None) -> Check:
    """Judge the control groups.

    Args:
        session: the cgroup of the systemd user manager, if it is there and is ours.
    """
    lost = "limits (--memory, --cpus, --pids-limit) are refused, unless --limits=try"
    if groups.layout in ("none", "v1"):
        fact = "no control groups" if groups.layout == "none" else "control groups version 1 only"
        fix = "boot with systemd.unified_cgroup_hierarchy=1"
        return Check("cgroup", WARN, fact, lost, fix)
    there = groups.controllers
    if groups.path and facts.is_delegated(groups.path):
        where = groups.path
    elif session:
        where = session
        there = tuple((facts.read(f"{session}/cgroup.controllers") or "").split())
    else:
        fix = (
            "log in by a way that starts a systemd user session, or let the administrator "
            "delegate a cgroup (Delegate=yes)"
        )
        return Check("cgroup", WARN, f"{groups.layout}, no group is delegated to you", lost, fix)
    fact = f"{groups.layout}, {where} is yours ({' '.join(there) or 'no controllers'})"
    missing = [name for name in ("cpu", "cpuset", "io", "memory", "pids") if name not in there]
    if missing:
        fix = (
            "v1 controllers take them: boot with systemd.unified_cgroup_hierarchy=1"
            if groups.layout == "hybrid"
            else f"the administrator runs\nsudo mkdir -p {os.path.dirname(DELEGATE_FILE)}\n"
            f"printf '{_DROP_IN}' | sudo tee {DELEGATE_FILE}\n"
            "sudo systemctl daemon-reload\nand you log in again"
        )
        return Check("cgroup", WARN, fact, f"no limits of {', '.join(missing)}", fix)
    return Check("cgroup", OK, fact)


def check_policy(path: str | None) -> Check:
    """Judge which images are accepted; `path` is that of policy.json, None if there is none."""
    if path is None:
        return Check("policy", OK, "no policy.json: images are accepted without a signature")
    if os.access(path, os.R_OK):
        return Check("policy", OK, f"{path} says which images are accepted")
    return Check("policy", WARN, f"{path} cannot be read", "no image is accepted", "chmod a+r it")


def check_linger(
    name: str, *, systemd: bool, session: bool, linger: bool, kills: bool | None
) -> Check:
    """Judge whether containers outlive the login session, and come back after a boot.

    Args:
        session: a systemd of the user runs.
        linger: it runs from boot on, without a login.
        kills: logind ends all processes of a session with it; None: it cannot be read.
    """
    if not systemd:
        return Check("linger", OK, "no systemd: nothing ends containers at logout")
    if linger:
        # Lingering keeps the user's systemd, and with it the scopes of containers.
        return Check("linger", OK, f"{name} lingers: containers outlive the login session")
    fact = f"{name} does not linger" + ("" if session else " and has no systemd user session")
    meaning = "none are started at boot"
    if session:
        meaning = f"the user's systemd ends containers with the last session, and {meaning}"
    elif kills is False:
        fact += ", KillUserProcesses=no"
        meaning = f"containers go on at logout, but {meaning}"
    else:
        fact += ", KillUserProcesses=yes" if kills else ""
        meaning = f"systemd ends containers at logout, and {meaning}"
    return Check("linger", WARN, fact, meaning, f"loginctl enable-linger {name}")


# our program in C -> what does not work without it; the others are made by the same installation
PROGRAMS = {
    "rless-monitor": "no container can be started",
    "rless-userns-holder": "no container can be started",
    "rless-pasta": "containers have no network of their own",
    "rless-networks": "containers cannot be in a network of several",
    "rless-serve": "image files are not mounted",
    "rless-init": "--init is refused",
    "rless-listener": "the service does not start by itself",
}


def check_programs(missing: list[str]) -> Check:
    """Judge the programs in C that belong to rless: those that cannot be executed."""
    if not missing:
        return Check("programs", OK, f"the {len(PROGRAMS)} programs of rless can be executed")
    lost = dict.fromkeys(PROGRAMS[name] for name in missing)
    compiler = packages.command("musl-tools")
    return Check(
        "programs",
        FAIL if PROGRAMS["rless-monitor"] in lost else WARN,
        f"{', '.join(missing)}: cannot be executed",
        "; ".join(lost),
        f"install a C compiler ({compiler}), and rless again, where programs may be executed",
    )
