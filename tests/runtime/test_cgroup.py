"""rootless/runtime/cgroup: cgroups in a delegated tree, or none."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rootless.runtime.cgroup import cgroupfs
from tests.lib.bundle import Bundle, complaint
from tests.lib.product import wait_for

pytestmark = pytest.mark.needs("compiler", "user namespaces")


def own_cgroup() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def unified(bundle: Bundle) -> str:
    lines = bundle.run("cgroup").expect().lines()
    return next(line[3:] for line in lines if line.startswith("0::"))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"memory": {"limit": 1 << 20}}, "no limit of memory can be set"),
        ({"pids": {"limit": 5}, "cpu": {"shares": 5}}, "the controllers cpu pids are not"),
        ({"memory": {"swappiness": 5}}, "linux.resources.memory.swappiness is not supported"),
        ({"unified": {"cgroup.procs": "1"}}, "linux.resources.unified.cgroup.procs"),
        ({"memory": {"limit": "x"}}, "linux.resources.memory.limit is not a number"),
        ({"hugepageLimits": [{"limit": 1}]}, "linux.resources.hugepageLimits[0].pageSize"),
    ],
)
def test_impossible_limits_are_refused(
    bundle: Bundle, resources: dict[str, object], words: str
) -> None:
    """Of a tree without controllers, as it is here; tests/vm has the others."""
    bundle.linux["resources"] = resources
    assert words in bundle.fails("id")


@pytest.mark.needs("delegated cgroup")
def test_unified_keys_without_controllers_are_set(bundle: Bundle) -> None:
    bundle.linux["resources"] = {"unified": {"cgroup.max.descendants": "7"}}
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    assert bundle.run("read", "/sys/fs/cgroup/cgroup.max.descendants").expect().out.strip() == "7"


def test_empty_resources_and_device_rules_ask_for_nothing(bundle: Bundle) -> None:
    bundle.linux["resources"] = {"devices": [{"allow": False}], "memory": {}, "cpu": {}}
    bundle.run("id").expect()


@pytest.mark.needs("delegated cgroup")
def test_container_has_its_own_cgroup(bundle: Bundle) -> None:
    assert unified(bundle) == f"{own_cgroup()}/rless-{bundle.id}".replace("//", "/")
    assert not [name for name in os.listdir(directory()) if bundle.id in name]


@pytest.mark.needs("delegated cgroup")
@pytest.mark.parametrize("path", ["/a/b", "..", "../..", ".", "/", "a/../../b"])
def test_cgroup_path_stays_below_the_delegated_tree(bundle: Bundle, path: str) -> None:
    bundle.linux["cgroupsPath"] = path
    place = unified(bundle)
    assert place.startswith(own_cgroup().rstrip("/") + "/")
    assert "/" not in place[len(own_cgroup().rstrip("/")) + 1 :]
    assert not os.path.exists(f"{directory()}{place.removeprefix(own_cgroup().rstrip('/'))}")


@pytest.mark.needs("delegated cgroup")
def test_absolute_path_counts_from_the_mount_point(bundle: Bundle) -> None:
    """The specification demands it; it is done where we may write, as below our own group."""
    place = f"{own_cgroup().rstrip('/')}/pod-{bundle.id}/a"
    bundle.linux["cgroupsPath"] = place
    try:
        assert unified(bundle) == place
        assert not os.path.exists(f"{directory()}/pod-{bundle.id}/a")
        os.mkdir(f"{directory()}/pod-{bundle.id}/a")  # somebody's
        assert "File exists" in bundle.fails("id")
        assert os.path.exists(f"{directory()}/pod-{bundle.id}/a")
    finally:
        cgroupfs.remove(f"{directory()}/pod-{bundle.id}")


@pytest.mark.needs("delegated cgroup")
def test_cgroup_namespace_hides_the_path(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    assert unified(bundle) == "/"
    assert "cgroup.procs" in bundle.run("ls", "/sys/fs/cgroup").expect().lines()


@pytest.mark.needs("delegated cgroup")
def test_delete_kills_all_processes_in_the_cgroup(live: Bundle) -> None:
    """Without a pid namespace, processes outlive init: the cgroup knows them."""
    live.remove_namespace("pid")
    live.spec["mounts"] = [m for m in live.spec["mounts"] if m["type"] != "proc"]
    live.create("fork-bomb", "5", ",", "sleep", "60")
    live.call("start", live.id).expect()
    live.wait_status("running")
    place = f"{directory()}/rless-{live.id}"
    assert str(live.pid()) in Path(f"{place}/cgroup.procs").read_text().split()
    live.call("delete", "--force", live.id).expect()
    assert not os.path.exists(place)


@pytest.mark.needs("delegated cgroup")
def test_kill_all_signals_all_processes_in_the_cgroup(live: Bundle) -> None:
    live.create("ignore-term")
    live.call("start", live.id).expect()
    live.wait_output("ready")
    live.call("kill", "--all", live.id, "KILL").expect()
    live.wait_status("stopped")


@pytest.mark.needs("delegated cgroup")
@pytest.mark.parametrize("first", ["there", "gone"])
def test_kill_ends_all_processes_without_a_pid_namespace(live: Bundle, first: str) -> None:
    """The kernel does not end them with the first one."""
    live.remove_namespace("pid")
    live.spec["mounts"] = [m for m in live.spec["mounts"] if m["type"] != "proc"]
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    null = subprocess.DEVNULL
    words = ["-d", live.id, "/probe", "sleep", "60"]
    live.call("exec", *words, stdout=null, stderr=null).expect()
    procs = Path(f"{directory()}/rless-{live.id}/cgroup.procs")
    assert len(procs.read_text().split()) > 1
    if first == "gone":
        os.kill(live.pid(), signal.SIGKILL)
        live.wait_status("stopped")
    live.call("kill", live.id, "KILL").expect()
    wait_for(lambda: procs.read_text() == "", "their end", 30)
    assert "container not running" in complaint(live.call("kill", live.id, "KILL"))


@pytest.mark.needs("delegated cgroup")
def test_exec_can_join_a_group_below(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    own = f"rless-{live.id}"
    os.mkdir(f"{directory()}/{own}/sub")
    for path, place in (("sub", f"{own}/sub"), ("/", own), ("/sub/", f"{own}/sub")):
        done = live.call("exec", "--cgroup", path, live.id, "/probe", "cgroup").expect()
        assert f"0::{own_cgroup().rstrip('/')}/{place}" in done.lines()
    for path in ("none", "..", "../x", "sub/../.."):
        done = live.call("exec", "--cgroup", path, live.id, "/probe", "id")
        assert "no such group below that of the container" in complaint(done)


def directory() -> str:
    """Return the directory of the tests' own cgroup."""
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{root}{own_cgroup()}/cgroup.procs"):
            return f"{root}{own_cgroup()}"
    raise AssertionError("no unified hierarchy")
