"""--fakeroot: let operations succeed that need many ids, without doing them.

With only one id mapped, every chown to another one fails, and most installations of packages fail
with it. A seccomp filter returns success for these calls and does nothing. This needs no library in
the image and no tracer, and costs no time. A program that checks sees no change: the file still
belongs to root, and a process that has "become" another user is still root.

apt does check. A file of ours sets its option to go on nevertheless.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWNERS = "chown chown32 fchown fchown32 fchownat lchown lchown32"
_USERS = (
    "setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid"
    " setresuid32 setreuid setreuid32 setuid setuid32"
)
ATTRIBUTES = "setxattr lsetxattr fsetxattr"
_SUCCESS = {"action": "SCMP_ACT_ERRNO", "errnoRet": 0}
_FLAGS = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)
# In /dev, which is a tmpfs of the container's: nothing is left of it in the image.
_APT_PATH = "/dev/.rless-apt.conf"
_APT = 'APT::Sandbox::User "root";\n'
ENVIRONMENT = (f"APT_CONFIG={_APT_PATH}",)


def pretend(profile: dict[str, Any] | None, *, notifies: bool = False) -> dict[str, Any]:
    """Return a seccomp profile in which these calls do nothing and succeed.

    Args:
        profile: an OCI `linux.seccomp` object, which stays as it is; None: none.
        notifies: who starts it answers the calls about owners, attributes and devices.
    """
    from rootless.runtime import seccomp

    if profile is None:
        profile = seccomp.default_profile(())
        profile = {**profile, "defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
        profile.pop("defaultErrnoRet", None)
    told = {*OWNERS.split(), *ATTRIBUTES.split()} if notifies else set()
    faked = {*OWNERS.split(), *_USERS.split()} | told
    rules = []
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name not in faked]
        if names:
            rules.append({**rule, "names": names})
    answer = {"action": "SCMP_ACT_NOTIFY"} if notifies else _SUCCESS
    rules.append({"names": sorted(faked - told), **_SUCCESS})
    if told:
        rules.append({"names": sorted(told), **answer})
    for name, index in (("mknod", 1), ("mknodat", 2)):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            test = {"index": index, "value": 0o170000, "valueTwo": kind}
            rules.append(
                {
                    "names": [name],
                    **answer,
                    "args": [{**test, "op": "SCMP_CMP_MASKED_EQ"}],
                }
            )
    made = {**profile, "syscalls": rules}
    if notifies:
        made["listenerPath"] = "inherited"  # no path: the connected socket is given
        if seccomp.has_killable_notifications():
            made["flags"] = [*made.get("flags", _FLAGS), "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    return made


def write_files(directory: str) -> dict[str, str]:
    """Write the files that it needs; return path inside -> file outside."""
    file = f"{directory}/apt.conf"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, _APT.encode())
    finally:
        os.close(fd)
    return {_APT_PATH: file}
