"""Rare features of a config: each takes effect, or is refused by its path."""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.linux import subid
from tests.lib.bundle import ENVIRONMENT, Bundle, complaint

pytestmark = pytest.mark.needs("compiler", "user namespaces")


# -- user namespaces -------------------------------------------------------------------------------


def without_mappings(bundle: Bundle) -> None:
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]


@pytest.mark.needs("ordinary user")
@pytest.mark.parametrize("named", [True, False])
def test_missing_user_namespace_is_added(bundle: Bundle, named: bool) -> None:
    """As crun: root in there is the caller, then come the subordinate ids."""
    without_mappings(bundle)
    if not named:
        bundle.remove_namespace("user")
    lines = bundle.run("read", "/proc/self/uid_map").expect().lines()
    found = [tuple(map(int, line.split())) for line in lines]
    assert found[0] == (0, os.getuid(), 1)
    assert [row[1:] for row in found[1:]] == subid.ranges("uid")


def test_user_namespace_is_joined_by_path(bundle: Bundle) -> None:
    with bundle.session():
        bundle.create("sleep", "60")
        bundle.call("start", bundle.id).expect()
        path = f"/proc/{bundle.pid()}/ns/user"
        other = Bundle(bundle.base / "other")
        without_mappings(other)
        other.remove_namespace("user")
        other.linux["namespaces"].append({"type": "user", "path": path})
        facts = other.facts("ns", ",", "id")
        assert facts["user"] == os.readlink(path)
        assert facts["uid"] == "0 0 0 0"
        assert other.run("exit", "5").code == 5


def test_own_user_namespace_by_path_is_ignored(bundle: Bundle) -> None:
    """Nobody may join his own: it is as if it were not named, and so another is made."""
    without_mappings(bundle)
    bundle.remove_namespace("user")
    bundle.linux["namespaces"].append({"type": "user", "path": "/proc/self/ns/user"})
    assert "cannot make the container's namespaces" in bundle.fails("id")


# -- the time namespace ----------------------------------------------------------------------------


def test_time_namespace_offsets_are_set(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 7200}, "boottime": {"secs": 360000}}
    facts = bundle.facts("clocks", ",", "ns")
    assert 7190 < int(facts["monotonic"]) - time.clock_gettime(time.CLOCK_MONOTONIC) < 7260
    assert 359990 < int(facts["boottime"]) - time.clock_gettime(time.CLOCK_BOOTTIME) < 360060
    assert facts["time"] != os.readlink("/proc/self/ns/time")


def test_wrong_time_offsets_are_refused(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"boottime": {"secs": -(10**9)}}
    assert "linux.timeOffsets" in bundle.fails("id")


def test_exec_has_the_time_namespace(live: Bundle) -> None:
    live.linux["namespaces"].append({"type": "time"})
    live.linux["timeOffsets"] = {"boottime": {"secs": 360000}}
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    facts = live.call("exec", live.id, "/probe", "clocks").expect().facts()
    assert int(facts["boottime"]) > 360000


# -- how the kernel treats it ----------------------------------------------------------------------


def test_scheduler_and_io_priority_are_set(bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 19}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE"}
    facts = bundle.facts("scheduling")
    assert facts["policy"] == "3"
    assert facts["nice"] == "19"
    assert facts["io"].split()[0] == "3"


def test_personality_and_memory_policy_are_set(bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    facts = bundle.facts("scheduling")
    assert facts["personality"] == "0x8"
    assert facts["mempolicy"] == "0x2"


def test_exec_cpu_affinity_is_set(live: Bundle) -> None:
    one = min(os.sched_getaffinity(0))
    live.process["execCPUAffinity"] = {"initial": str(one), "final": str(one)}
    live.create("scheduling", ",", "sleep", "60")
    live.call("start", live.id).expect()
    assert live.call("exec", live.id, "/probe", "scheduling").expect().facts()["cpus"] == hex(
        1 << one
    )


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("process.scheduler", {"policy": "SCHED_X"}, "process.scheduler.policy: 'SCHED_X'"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "flags": ["X"]}, "scheduler.flags"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "runtime": 5}, "SCHED_DEADLINE"),
        ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 100}, "between 0 and 99"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice"),
        ("process.ioPriority", {"class": "X"}, "process.ioPriority.class"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "ioPriority.priority"),
        ("process.execCPUAffinity", {"initial": "x"}, "process.execCPUAffinity.initial"),
        ("process.execCPUAffinity", {"final": "3-1"}, "process.execCPUAffinity.final"),
        ("linux.personality", {"domain": "X"}, "linux.personality.domain"),
        ("linux.personality", {"domain": "LINUX", "flags": ["X"]}, "linux.personality.flags"),
        ("linux.memoryPolicy", {"mode": "X"}, "linux.memoryPolicy.mode"),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0-"}, "linux.memoryPolicy.nodes"),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "1023"}, "linux.memoryPolicy"),
        ("linux.memoryPolicy", {}, "linux.memoryPolicy.mode is missing"),
        ("process.apparmorProfile", "x", "apparmor is not active"),
        ("process.selinuxLabel", "x", "selinux is not active"),
        ("linux.mountLabel", "x", "selinux is not active"),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt is not supported: resctrl"),
    ],
)
def test_unsupported_feature_is_refused_by_its_path(
    bundle: Bundle, place: str, value: Any, says: str
) -> None:
    part, _, name = place.partition(".")
    bundle.spec[part][name] = value
    assert says in bundle.fails("id")


@pytest.mark.needs("ordinary user")
def test_realtime_scheduling_needs_root(bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_FIFO", "priority": 1}
    assert "process.scheduler: " in bundle.fails("id")


# -- mounts ----------------------------------------------------------------------------------------


def test_tmpcopyup_copies_existing_content(bundle: Bundle) -> None:
    """No link is followed, and nothing of the host is copied (class 26)."""
    place = bundle.rootfs / "data"
    (place / "deep/er").mkdir(parents=True)
    (place / "file").write_text("content")
    (place / "file").chmod(0o640)
    (place / "deep/er/x").write_text("x" * 3_000_000)
    (place / "link").symlink_to("/etc/shadow")
    os.mkfifo(place / "fifo")
    place.chmod(0o751)
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    paths = ["file", "deep/er/x", "link", "fifo", "."]
    lines = bundle.run(
        "stat", *(f"/data/{path}" for path in paths), ",", "read", "/data/file", ",",
        "readlink", "/data/link", ",", "write", "/data/file", "new",
    ).expect().lines()  # fmt: skip
    assert lines[0].startswith("stat /data/file file 0640 0 0 7")
    assert lines[1].split()[5] == "0" and lines[1].split()[6] == "3000000"
    assert lines[2].startswith("stat /data/link link")
    assert lines[3] == "stat /data/fifo ENOENT"
    assert lines[4].startswith("stat /data/. dir 0751")
    assert (place / "file").read_text() == "content"


def test_tmpcopyup_into_a_small_tmpfs_fails(bundle: Bundle) -> None:
    place = bundle.rootfs / "data"
    place.mkdir()
    (place / "file").write_text("x" * 1_000_000)
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup", "size=64k")
    message = bundle.fails("id")
    assert "tmpcopyup" in message
    assert "No space" in message


def test_remount_changes_flags(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    bundle.bind(source, "/data", "rw")
    bundle.mount("/data", "bind", source, "remount", "bind", "ro", "nosuid")
    assert bundle.facts("write", "/data/x", "y")["write"] == "EROFS"
    bundle.spec["mounts"][-1]["destination"] = "/proc/sys"
    assert "there is no mount to remount" in bundle.fails("id")


def test_sys_without_a_network_namespace_is_the_hosts(bundle: Bundle) -> None:
    """The kernel allows no new one: it is the host's then, read-only."""
    bundle.remove_namespace("network")
    lines = bundle.run("stat", "/sys/class", ",", "write", "/sys/kernel/x", "y").expect().lines()
    assert lines[0].startswith("stat /sys/class dir")
    assert lines[1] in ("write EROFS", "write EACCES", "write EPERM")


def test_default_devices_are_nosuid_and_noexec(bundle: Bundle) -> None:
    lines = bundle.run("mounts").expect().lines()
    null = next(line.split() for line in lines if line.split()[4] == "/dev/null")
    assert {"nosuid", "noexec"} <= set(null[5].split(","))


# -- service managers ---------------------------------------------------------------------------


def short_directory() -> str:
    return tempfile.mkdtemp(prefix="rless-n-")


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """Give the socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"{short_directory()}/notify")
        channel.settimeout(10)
        yield channel


def test_readiness_is_passed_on(live: Bundle, manager: socket.socket) -> None:
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": manager.getsockname()}
    live.write("notify", "STATUS=no\nREADY=1\nSTOPPING=1", ",", "sleep", "60")
    null = subprocess.DEVNULL
    live.call("create", "-b", str(live.path), live.id, env=environment, stdout=null, stderr=null)
    live.call("start", live.id, env=ENVIRONMENT).expect()
    # Nothing but that: a container must not steer its unit.
    assert manager.recv(4096).decode() == f"READY=1\nMAINPID={live.pid()}\n"


def test_readiness_of_run_reaches_the_manager(bundle: Bundle, manager: socket.socket) -> None:
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": manager.getsockname()}
    done = bundle.run("notify", "READY=1", ",", "env", env=environment)
    assert done.expect().lines()[0] == "notify ok"
    assert f"NOTIFY_SOCKET={manager.getsockname()}/notify" in done.out
    assert manager.recv(4096).startswith(b"READY=1\n")
    assert bundle.id not in bundle.containers()


def test_container_may_end_without_readiness(live: Bundle, manager: socket.socket) -> None:
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": manager.getsockname()}
    live.write("exit", "0")
    null = subprocess.DEVNULL
    live.call("create", "-b", str(live.path), live.id, env=environment, stdout=null, stderr=null)
    live.call("start", live.id).expect()
    live.wait_status("stopped")
    live.call("delete", live.id).expect()
    assert live.id not in live.containers()


def test_socket_activation_is_passed_on(bundle: Bundle) -> None:
    bundle.write("env", ",", "fds")
    command = ["sh", "-c", 'exec 3<"$0"; exec "$@"', str(bundle.path / "config.json")]
    command += bundle.command("run", "-b", str(bundle.path), bundle.id)
    environment = {**ENVIRONMENT, "LISTEN_FDS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "LISTEN_FDS=1\nLISTEN_PID=1\n" in done.stdout
    assert "\nfd 3 100000 " in done.stdout
    other = {**ENVIRONMENT, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    assert "LISTEN" not in bundle.run("env", env=other).expect().out


# -- the agent of a seccomp filter ---------------------------------------------------------------


@pytest.mark.needs("libseccomp")
def test_seccomp_listener_is_sent_to_its_agent(live: Bundle) -> None:
    """It is loaded, or nothing starts (class 32)."""
    path = f"{short_directory()}/agent"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.bind(path)
        agent.listen(1)
        agent.settimeout(10)
        live.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "meta",
            "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}],
        }
        live.create("sleep", "60")
        live.call("start", live.id).expect()
        channel, _ = agent.accept()
        text, ancillary, _, _ = channel.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        channel.close()
    fds = array.array("i", ancillary[0][2])
    assert os.readlink(f"/proc/self/fd/{fds[0]}") == "anon_inode:seccomp notify"
    os.close(fds[0])
    message = json.loads(text)
    assert message["fds"] == ["seccompFd"]
    assert message["metadata"] == "meta"
    assert message["pid"] == live.pid()
    assert message["state"]["id"] == live.id


@pytest.mark.needs("libseccomp")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                "listenerPath": "/no/such",
                "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}],
            },
            "linux.seccomp.listenerPath /no/such",
        ),
        ({"syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath"),
    ],
)
def test_missing_seccomp_agent_prevents_the_start(
    bundle: Bundle, changes: dict[str, Any], says: str
) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **changes}
    assert says in bundle.fails("id")


@pytest.mark.needs("libseccomp")
def test_agent_is_only_needed_for_what_notifies(bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such"}
    bundle.run("exit", "0").expect()


# -- hooks: what is ours alone ---------------------------------------------------------------------


def test_failed_poststart_hook_ends_the_container(live: Bundle) -> None:
    log = live.base / "log"
    live.spec["hooks"] = {
        "poststart": [{"path": "/bin/false"}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo over >> {log}"]}],
    }
    live.create("sleep", "60")
    done = live.call("start", live.id)
    assert "poststart hook failed with exit code 1" in complaint(done)
    assert live.id not in live.containers()
    assert log.read_text() == "over\n"


def test_slow_hook_is_killed(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {
        "createContainer": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]
    }
    assert "it took more than 1 s" in bundle.fails("id")


def test_failed_poststop_hook_is_a_warning(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"poststop": [{"path": "/bin/false"}, {"path": "/no/such"}]}
    done = bundle.run("exit", "4")
    assert done.code == 4
    assert "poststop hook failed with exit code 1" in done.err
    assert "/no/such" in done.err


def test_start_hook_has_the_privileges_of_the_application(bundle: Bundle) -> None:
    """Not those of init: it is a program of the image (class 31)."""
    bundle.process["capabilities"] = {}
    bundle.spec["hooks"] = {"startContainer": [{"path": "/probe", "args": ["probe", "caps"]}]}
    lines = bundle.run("id").expect().lines()
    assert "effective 0000000000000000" in lines
    assert "no_new_privs 1" in lines


def test_start_hook_has_the_environment_of_the_application(bundle: Bundle) -> None:
    """As in runc; of the caller's it gets nothing: the program may be the image's (class 31)."""
    bundle.process["env"] = ["ONE=two", "HOME=/h"]
    hook = {"path": "/probe", "args": ["probe", "env"]}
    bundle.spec["hooks"] = {"startContainer": [hook, {**hook, "env": ["A=b"]}]}
    done = bundle.run("exit", "0", env={**ENVIRONMENT, "TOKEN": "secret"}).expect()
    assert sorted(done.lines()) == ["A=b", "HOME=/h", "ONE=two"]


def test_start_hook_cannot_execute_our_program(bundle: Bundle) -> None:
    """CVE-2019-5736, by a hook (class 24)."""
    (bundle.rootfs / "hook").symlink_to("/proc/self/exe")
    bundle.spec["hooks"] = {"startContainer": [{"path": "/hook"}]}
    assert "it leads to the program that starts the container" in bundle.fails("id")


# -- what is left on disk ----------------------------------------------------------------------


def test_state_is_private(live: Bundle) -> None:
    live.create("sleep", "60")
    assert stat.S_IMODE((live.state / live.id).stat().st_mode) == 0o700


def test_home_comes_from_the_containers_passwd(bundle: Bundle) -> None:
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "etc/passwd").write_text("a:x\nroot:x:0:0:r:/srv/root:/bin/sh\n")
    bundle.process["env"] = []
    assert bundle.run("env").expect().lines() == ["HOME=/srv/root"]
    (bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(bundle.rootfs / "etc/passwd")
    assert bundle.run("env").expect().lines() == ["HOME=/"]
    bundle.process["env"] = ["HOME=/before", "HOME="]  # empty is unset, as in runc 1.3
    assert bundle.run("env").expect().lines() == ["HOME=/"]


def test_read_only_tmpfs_can_hold_mounts(bundle: Bundle, tmp_path: Path) -> None:
    """It is closed when all is in it; so may /dev be."""
    (tmp_path / "source").mkdir()
    bundle.mount("/data", "tmpfs", "tmpfs", "ro")
    bundle.bind(tmp_path / "source", "/data/new/place")
    bundle.spec["mounts"][1]["options"].append("ro")
    words = ["write", "/data/x", "y", ",", "write", "/dev/x", "y", ",", "write", "/dev/null", "y"]
    lines = bundle.run(*words, ",", "stat", "/data/new/place").expect().lines()
    assert lines[:3] == ["write EROFS", "write EROFS", "write ok"]
    assert lines[3].startswith("stat /data/new/place dir")
