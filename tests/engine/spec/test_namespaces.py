"""The namespaces that are new, shared with the host, or joined."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


def host(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def inside(done: dict[str, str]) -> dict[str, str]:
    """Return the namespaces of `probe ns` by kind."""
    return {kind: f"{kind}:[{done[kind].strip('[]').rpartition('[')[2]}]" for kind in KINDS}


def namespaces(rless: Product, *flags: str) -> dict[str, str]:
    script = f"for n in {' '.join(KINDS)}; do readlink /proc/self/ns/$n; done"
    return dict(zip(KINDS, rless.sh(script, *flags).lines(), strict=True))


def test_all_namespaces_are_new(rless: Product) -> None:
    found = namespaces(rless)
    for kind in KINDS:
        assert found[kind].startswith(f"{kind}:["), found
        assert found[kind] != host(kind), kind


@pytest.mark.parametrize(
    ("flag", "kind"),
    [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup"),
     ("--network", "net")],
)  # fmt: skip
def test_single_namespace_can_be_the_hosts(rless: Product, flag: str, kind: str) -> None:
    found = namespaces(rless, f"{flag}=host")
    assert [name for name in KINDS if found[name] == host(name)] == [kind]
    private = namespaces(rless, f"{flag}=private") if flag != "--network" else namespaces(rless)
    assert private[kind] != host(kind)


def test_all_namespaces_can_be_the_hosts(rless: Product) -> None:
    flags = ["--pid=host", "--ipc=host", "--uts=host", "--cgroupns=host", "--network=host"]
    found = namespaces(rless, *flags)
    assert [name for name in KINDS if found[name] != host(name)] == ["user", "mnt"]


def test_proc_and_sys_of_the_host_are_masked(rless: Product) -> None:
    script = """
        cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l
        echo 1 >/proc/sys/vm/drop_caches || echo proc
        mkdir /sys/fs/cgroup/x || echo sys
        [ -e /proc/$HOST_PID/stat ] && echo seen
        grep -c ' /proc/sys ro' /proc/self/mountinfo
    """
    for flag, seen in (("--pid=host", ["seen"]), ("--network=host", [])):
        done = rless.sh(script, flag, "-e", f"HOST_PID={os.getpid()}", "--ulimit", "core=0")
        assert done.lines() == ["0", "0", "proc", "sys", *seen, "1"], flag


def test_pid_namespace_follows_its_flag(rless: Product) -> None:
    assert rless.sh("echo $$").out == "1\n"
    assert int(rless.sh("echo $$", "--pid=host").out) > 1
    # /proc shows the container's processes only.
    assert rless.probe("pids").out.split() == ["pids", "1"]


def test_network_none_has_a_loopback_that_is_up(rless: Product) -> None:
    done = rless.sh("ls /sys/class/net; ip address show lo")
    assert done.lines()[0] == "lo"
    assert "127.0.0.1/8" in done.out
    assert "UP" in done.out


def test_network_host_is_the_hosts(rless: Product) -> None:
    found = rless.sh("ls /sys/class/net", "--network=host").lines()
    assert found == sorted(os.listdir("/sys/class/net"))


def test_uts_namespace_has_its_hostname(rless: Product) -> None:
    assert rless.sh("hostname", "--hostname", "box").out == "box\n"
    assert rless.sh("hostname", "--uts=host").out == f"{os.uname().nodename}\n"
    assert len(rless.sh("hostname").out.strip()) == 12
    names = rless.sh(
        "hostname; cat /proc/sys/kernel/domainname", "--hostname=a", "--domainname=b.example"
    )
    assert names.lines() == ["a", "b.example"]


def test_ipc_flags_control_dev_shm(rless: Product) -> None:
    assert "/dev/shm" in rless.sh("mount").out
    none = rless.sh("mount", "--ipc=none").out
    assert "/dev/shm" not in none
    shm = rless.sh("df -k /dev/shm | tail -1", "--shm-size=16m").out.split()
    assert shm[1] == "16384"
    assert rless.sh("df -k /dev/shm | tail -1").out.split()[1] == "65536"


def test_namespaces_of_another_container_are_joined(rless: Product) -> None:
    rless.detach("first", "--hostname other -e X=1", "sleep", "60")
    for flag, kind in (
        ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "net"),
        ("--cgroupns", "cgroup"), ("--userns", "user"),
    ):  # fmt: skip
        found = namespaces(rless, f"{flag}=container:first")
        theirs = rless_namespaces(rless, "first")
        shared = {name for name in KINDS if found[name] == theirs[name]}
        assert shared == {kind, "user"}, flag
    both = ("--pid=container:first", "--network=container:first")
    assert "sleep" in rless.sh("ps", *both).out
    assert rless.sh("hostname", "--uts=container:first").out == "other\n"
    error = rless.run("--pid=container:none", "true").expect(125).one_line_error()
    assert "no such container" in error
    rless("rm", "-f", "first").expect()


def rless_namespaces(rless: Product, name: str) -> dict[str, str]:
    """Return the namespaces of a running container, seen from the host as its owner."""
    import json

    pid = json.loads((rless.live / rless.containers()[0]).read_text())["init"][0]
    # Its entries are closed to us, as to anybody; root of the same user namespace may look.
    script = f"for n in {' '.join(KINDS)}; do readlink /proc/{pid}/ns/$n; done"
    done = rless.run(
        ["--pid=host", "--userns=container:first", "--cap-add=ALL"], "sh", "-c", script
    )
    return dict(zip(KINDS, done.expect().lines(), strict=True))


def test_namespaces_of_a_stopped_container_cannot_be_joined(rless: Product) -> None:
    rless.detach("ended", "", "true")
    rless("wait", "ended").expect()
    error = rless.run("--network=container:ended", "true").expect(125).one_line_error()
    assert "not running" in error
    rless("rm", "ended").expect()


def test_namespaces_of_two_containers_cannot_be_joined(rless: Product) -> None:
    for name in ("one", "two"):
        rless.detach(name, "", "sleep", "60")
    flags = "--network=container:one --pid=container:two"
    assert "two different containers" in rless.run(flags, "true").expect(125).one_line_error()
    rless("rm", "-f", "one", "two").expect()


def test_default_network_has_address_and_route(rless: Product) -> None:
    """pasta gives an address and a route; nothing of it is left afterwards."""
    done = rless.sh("ip route; cat /etc/resolv.conf", "--network=private")
    assert "default via" in done.out
    assert "nameserver" in done.out


@pytest.mark.needs("delegated cgroup")
def test_cgroup_namespace_is_rooted_in_the_containers_cgroup(rless: Product) -> None:
    """Step 4: a cgroup of its own, which the application sees as the root of all."""
    made = rless.detach("grouped", "", "sleep", "60")
    pid = next(pid for pid, what in rless.processes().items() if "b'sleep'" in what)
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert next(line for line in lines if line.startswith("0::")).endswith(f"/rless-{made}")
    rless("rm", "-f", "grouped").expect()
    assert "0::/\n" in rless.sh("cat /proc/self/cgroup").out
    assert "/rless-" in rless.sh("cat /proc/self/cgroup", "--cgroupns=host").out
