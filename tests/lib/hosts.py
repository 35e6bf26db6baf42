"""What a machine of scripts/vm is beside its release: the host that RLESS_VM_HOST names.

A host is made by scripts of root in a machine that runs, from packages of its disk. This part
imports nothing that the system's Python does not have.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.lib.machine import Machine


class Host(NamedTuple):
    """A kind of host.

    Attributes:
        title: what the table of docs/hosts.md calls it.
        setup: a script for root, run before anything else.
        disk: a script for root that changes its disk, once: the machine boots from it then.
        kernel: arguments of the kernel that boots from that disk.
        processor: as uname(2) has it, if it is not that of this machine.
        seen: a script for root after the tour: what it prints is reported.
        storage: where a user keeps images and containers once rless has said that the home cannot.
    """

    title: str
    setup: str = ""
    disk: str = ""
    kernel: str = "audit=0"
    processor: str = ""
    seen: str = ""
    storage: str = ""


# Ubuntu's own switch is in no kernel of Debian: here a profile that allows all but capabilities is
# around each script of a user. A user namespace is made in it, and gives no rights, as there.
_CONFINED = """
cat >/etc/apparmor.d/laptop <<'X'
abi <abi/4.0>,
include <tunables/global>
profile laptop flags=(attach_disconnected) {
  allow file rwmlk /{**,},
  allow network,
  allow unix,
  allow signal,
  allow ptrace,
  allow dbus,
  allow mount,
  allow umount,
  allow pivot_root,
  allow userns,
  allow mqueue,
  allow io_uring,
  allow change_profile -> **,
  /** pix,
  /usr/bin/newuidmap Ux,
  /usr/bin/newgidmap Ux,
}
X
apparmor_parser -r /etc/apparmor.d/laptop"""
# The home of alice elsewhere: it is served from /srv/home.
_MOVE = "mkdir -p /srv/home && cp -a /home/alice /srv/home/ && cd / &&"
# Another machine to all that it does: it sees no mount of this one, so alice's home as it was.
_SSHD = """mkdir -p /run/sshd && systemd-run -q --unit sshd-host \\
    unshare --mount --propagation private /usr/sbin/sshd -D"""

# A user comes in by ssh, whose PAM gives the type that the policy has for a login.
_LABELLED = r"""
printf 'SELINUX=enforcing\nSELINUXTYPE=default\n' >/etc/selinux/config
cat >/usr/local/bin/su <<'X'
#!/bin/sh
exec ssh -q -i /root/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    "$2@localhost" "$4"
X
chmod 755 /usr/local/bin/su
rm /etc/systemd/system/ssh.service && systemctl -q enable ssh auditd
cd / && setfiles -F /etc/selinux/default/contexts/files/file_contexts /"""
_DENIALS = "ausearch -i -m avc,user_avc,selinux_err -ts boot 2>&1 | tail -n 40"

HOSTS = {
    "": Host(""),
    "confined": Host("users confined by AppArmor, as on Ubuntu 23.10 and later", _CONFINED),
    "nfs": Host(
        "home on NFS 4.2 with root_squash",
        f"""{_MOVE} modprobe nfsd && mount -t nfsd nfsd /proc/fs/nfsd
        echo '/srv/home 127.0.0.1(rw,root_squash,no_subtree_check,fsid=0)' >/etc/exports
        exportfs -a && rpc.nfsd --no-nfs-version 3 2 && rpc.mountd --no-nfs-version 3
        mount -t nfs4 -o vers=4.2 127.0.0.1:/alice /home/alice""",
        storage="/var/tmp/$USER-rless",
    ),
    "sshfs": Host(
        "home on sshfs",
        # ssh starts when the mount is there and nobody answers in it yet: it must look for nothing.
        f"""cd / && {_SSHD}
        install -m 600 -o alice -g alice /root/key /srv/key
        until runuser -u alice -- sshfs -F /dev/null -o IdentityFile=/srv/key \\
            -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \\
            alice@localhost: /home/alice
        do sleep 1; done""",
        storage="/var/tmp/$USER-rless",
    ),
    "fuse-overlayfs": Host(
        "home on fuse-overlayfs",
        f"""{_MOVE} mkdir -p /srv/upper /srv/work && chown alice:alice /srv/upper
        fuse-overlayfs -o allow_other,lowerdir=/srv/home/alice,upperdir=/srv/upper \\
            -o workdir=/srv/work /home/alice""",
    ),
    "selinux": Host(
        "SELinux enforcing",
        "restorecon -RF /opt/rless /opt/images && [ $(getenforce) = Enforcing ]",
        disk=_LABELLED,
        kernel="security=selinux enforcing=1 audit=1",
        seen=_DENIALS,
    ),
    "aarch64": Host("aarch64", processor="aarch64"),
}


def chosen() -> Host:
    """Return the host that RLESS_VM_HOST names."""
    return HOSTS[os.environ.get("RLESS_VM_HOST", "")]


def prepare(machine: Machine) -> None:
    """Make a machine that was just unpacked the chosen host."""
    host = chosen()
    if host.setup:
        machine.run(host.setup, "root").expect()
    if host is HOSTS["confined"]:
        _allow(machine)


def _allow(machine: Machine) -> None:
    """See that rless is refused in one line that says what to do, and do that."""
    refused = machine.run("rless run --rm host: true")
    assert refused.code == 125, refused
    assert refused.err.count("\n") == 1, refused
    assert "the AppArmor profile laptop does not let this process" in refused.err, refused
    assert "`rless doctor` prints it and the commands" in refused.err, refused
    said = json.loads(machine.run("rless doctor --json").out)
    (fix,) = (check["fix"] for check in said["checks"] if check["id"] == "userns")
    profile, _, commands = fix.partition("\n")[2].partition("and runs\n")
    script = f"cat >/etc/apparmor.d/rless <<'X'\n{profile}X\nsudo() {{ \"$@\"; }}\n{commands}"
    machine.run(script, "root").expect()
