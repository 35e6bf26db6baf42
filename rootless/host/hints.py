"""Explain why the kernel refused a call, and what to do: a table of misleading errnos.

The engine uses it when a step fails and `doctor` in advance, so that both give the same advice.
"""

from __future__ import annotations

import errno
import os
import re

from rootless.host import facts
from rootless.linux.call import OUTER

APPARMOR_SYSCTL = "kernel.apparmor_restrict_unprivileged_userns"


def apparmor_profile(programs: list[str]) -> str:
    """Return the AppArmor profile that lets these programs make user namespaces.

    Ubuntu 23.10 and later take all capabilities away in a user namespace, except from programs
    with a profile that says `userns`. It confines nothing else (flags=unconfined), and what the
    programs execute keeps it. It is the file that is installed with rless, with their paths.
    """
    with open(f"{os.path.dirname(__file__)}/rless.apparmor", encoding="ascii") as file:
        text = "".join(line for line in file if not line.startswith("#"))
    named = [re.sub(r"[][{}*?^,\"\\]", r"\\\g<0>", path.lstrip("/")) for path in programs]
    # apparmor.d(5): a path begins with a slash, also within quotes.
    paths = "/" + (named[0] if len(named) == 1 else "{" + ",".join(named) + "}")
    before, _, after = text.split('"')
    return f'{before}"{paths}"{after}'


# pasta has a profile of its own, which takes signals from programs without one only: rless could
# not end it. What that profile includes, abstractions/base, reads this directory.
APPARMOR_COMMANDS = """\
and runs
sudo mkdir -p /etc/apparmor.d/abstractions/base.d
echo 'signal (receive) peer=rless,' | sudo tee /etc/apparmor.d/abstractions/base.d/rless
sudo apparmor_parser -r /etc/apparmor.d/rless /etc/apparmor.d/usr.bin.pasta"""


def launchers() -> list[str]:
    """Return the paths of rless and rless-oci, beside the program that runs now."""
    import sys

    directory = os.path.dirname(os.path.realpath(sys.argv[0]))
    found = [f"{directory}/{name}" for name in ("rless", "rless-oci")]
    found = [path for path in found if os.path.exists(path)]
    return found or ["/usr/local/bin/rless", "/usr/local/bin/rless-oci"]


_APPARMOR = (
    "AppArmor keeps programs without a profile from using user namespaces (Ubuntu 23.10 and later)"
)
PROFILE_WANTED = (
    "the administrator installs a profile for rless: `rless doctor` prints it and the commands"
)
SELINUX_WANTED = (
    "`sudo ausearch -m AVC -ts recent` shows what it denied; "
    "the administrator runs: sudo semanage login -a -s unconfined_u NAME"
)
_IN_CONTAINER = (
    "this process is in a container, and its seccomp filter or missing rights forbid it",
    OUTER,
)
_IN_CHROOT = (
    "the kernel refuses user namespaces in a chroot",
    "run rless outside of the chroot, or enter the directory with pivot_root",
)


def hint_for_userns_failure(number: int) -> tuple[str, str]:
    """Return (why, hint) for a user namespace that could not be made or used.

    Args:
        number: the errno of unshare(CLONE_NEWUSER), of clone3, or of the first write or mount
            in the new namespace.
    """
    if facts.sysctl("kernel.unprivileged_userns_clone") == 0 and os.geteuid():
        return (
            "this kernel gives user namespaces to root only (kernel.unprivileged_userns_clone=0)",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1, and keep it in /etc/sysctl.d/",
        )
    if facts.sysctl("user.max_user_namespaces") == 0:
        return (
            "the number of user namespaces is limited to 0 (user.max_user_namespaces)",
            "sudo sysctl -w user.max_user_namespaces=15000, and keep it in /etc/sysctl.d/",
        )
    if number in (errno.ENOSPC, errno.EUSERS):
        for kind in ("mnt", "net", "pid", "ipc", "uts", "cgroup"):
            if facts.sysctl(f"user.max_{kind}_namespaces") == 0:
                return (
                    f"the number of {kind} namespaces is limited to 0 (user.max_{kind}_namespaces)",
                    f"sudo sysctl -w user.max_{kind}_namespaces=15000",
                )
        return (
            "the limit of user namespaces is reached: of a user (user.max_user_namespaces = "
            f"{facts.sysctl('user.max_user_namespaces')}) or of their nesting (32)",
            "end containers that are not needed, or raise the sysctl user.max_user_namespaces",
        )
    if number in (errno.EPERM, errno.EACCES):
        if facts.sysctl(APPARMOR_SYSCTL) == 1:
            return _APPARMOR, PROFILE_WANTED
        confined = facts.selinux_type()
        if confined not in ("", facts.UNCONFINED):
            return (
                f"SELinux does not let processes of the type {confined} use user namespaces",
                SELINUX_WANTED,
            )
        status = facts.parse_status(facts.read("/proc/self/status") or "")
        if status.get("Seccomp", "0") == "2":
            return _IN_CONTAINER
        if profile := facts.apparmor_profile():
            why = f"the AppArmor profile {profile} does not let this process use user namespaces"
            return why, OUTER if facts.inside_container() else PROFILE_WANTED
        if _in_chroot():
            return _IN_CHROOT
        if facts.inside_container():  # a file says so, which may be visible in a chroot, too
            return (
                "this process is in a chroot, or in a container whose missing rights forbid user "
                "namespaces",
                "run rless outside of the chroot; start the outer container with "
                "--security-opt apparmor=unconfined --security-opt systempaths=unconfined",
            )
        return (
            "this process is in a chroot, or a security module or policy of this host forbids user "
            "namespaces",
            "run rless outside of the chroot, else ask the administrator",
        )
    if number == errno.EINVAL:
        return (
            "this kernel was built without user namespaces (CONFIG_USER_NS), or the caller has "
            "more than one thread",
            "use the distribution's kernel",
        )
    return os.strerror(number), "see `rless doctor`"


def _in_chroot() -> bool:
    """Tell whether the root directory is not the root of a mount.

    unshare(2) demands that it is the root of the mount namespace. A chroot to a mount point is not,
    either, and nothing shows that to a user.
    """
    return not any(mount.target == "/" for mount in facts.mounts())
