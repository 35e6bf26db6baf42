"""rootless/runtime/inside/sysctl.py: which settings are the container's own (class 28)."""

from __future__ import annotations

import pytest

from rootless.errors import RlessError
from rootless.runtime.inside import sysctl

ALL = {"ipc", "network", "uts"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shmmax", "kernel/shmmax"),
        ("kernel/shmmax", "kernel/shmmax"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.domainname", "kernel/domainname"),
    ],
)
def test_settings_of_namespaces_are_allowed(name: str, path: str) -> None:
    assert sysctl.check(name, ALL) == path
    with pytest.raises(RlessError, match=r"shares the (ipc|network|uts) namespace"):
        sysctl.check(name, set())


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.overcommit_memory", "fs.file-max", "network.x", "kernel.shmmax2"]
)
def test_settings_of_the_host_are_refused(name: str) -> None:
    with pytest.raises(RlessError, match="belongs to the whole host"):
        sysctl.check(name, ALL)


@pytest.mark.parametrize(
    "name", ["", ".", "/", "net", "net.", "net..x", "net/../kernel/panic", "net./.x", "/net/x"]
)
def test_wrong_names_are_refused(name: str) -> None:
    with pytest.raises(RlessError):
        sysctl.check(name, ALL)
