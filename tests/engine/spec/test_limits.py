"""Control groups of containers: by a simulated systemd, by hand, or none.

The cgroups of these tests have no controllers. That limits hold, for security class 41, is shown
by tests/vm; that they are not forgotten, here.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from os.path import exists
from pathlib import Path
from typing import Any

import pytest

from rootless.runtime.cgroup import PendingCgroup
from rootless.runtime.cgroup.base import CgroupRequest
from tests.lib.fakesystemd import FakeSystemd
from tests.lib.faults import children
from tests.lib.life import init_of
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
delegated = pytest.mark.needs("delegated cgroup")

FIX = "Delegate=cpu cpuset io memory pids"


def cgroup_of(pid: int) -> str:
    """Return the cgroup of a process in the unified hierarchy."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def live(rless: Product, container: str) -> dict[str, Any]:
    """Return the run record of a container that runs."""
    found: dict[str, Any] = json.loads((rless.live / container).read_text())
    return found


@pytest.fixture(params=[False, True], ids=["private", "bus"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeSystemd]:
    """Start one with slices below the group of the tests."""
    slices = Path(os.environ["RLESS_TEST_CGROUP"]) / f"fake-{os.getpid()}"
    slices.mkdir()
    try:
        with FakeSystemd(tmp_path, broker=request.param, slices=slices) as fake:
            yield fake
            wait_for(lambda: not list(slices.glob("*/*.scope")), "the scopes' end")
    finally:  # a test that failed may have left one, which no other is to find
        (slices / "cgroup.kill").write_text("1")
        wait_for(lambda: "populated 0" in (slices / "cgroup.events").read_text(), "their end")
        for directory, _, _ in os.walk(slices, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)


def reach(rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that the tests start find the systemd."""
    monkeypatch.setitem(rless.env, "XDG_RUNTIME_DIR", str(systemd.runtime_dir))


# -- systemd -------------------------------------------------------------------------------------


@delegated
def test_container_gets_a_scope(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    # pasta is there before the scope: it has to be moved into it, too.
    systemd.before_start = lambda pids: wait_for(lambda: len(children(pids[0])) > 1, "pasta")
    made = rless.detach("scoped", "--stop-timeout=3 --network=pasta", "sleep", "600")
    unit, mode, _, _ = systemd.arguments("StartTransientUnit")
    assert (unit, mode) == (f"rless-{made}.scope", "fail")
    assert systemd.properties() == {
        "Description": "container scoped",
        "PIDs": systemd.properties()["PIDs"],
        "Slice": "user.slice",
        "Delegate": True,
        "CollectMode": "inactive-or-failed",
        "TasksMax": 2048 + 64,
        "TimeoutStopUSec": 8_000_000,
    }
    # One to be let in, one for the scope, one for the network, which the command cannot name yet.
    assert systemd.round_trips <= 3
    entry = live(rless, made)
    assert entry["manager"] == "systemd"
    assert entry["cgroup"].endswith(f"/user.slice/{unit}/container")
    assert cgroup_of(entry["init"][0]).endswith(f"/{unit}/container")
    assert cgroup_of(entry["monitor"][0]).endswith(f"/{unit}/supervisor")
    assert cgroup_of(entry["pasta"][0]).endswith(f"/{unit}/supervisor")
    assert systemd.properties()["PIDs"] == [entry["monitor"][0]]
    assert systemd.arguments("AttachProcessesToUnit") == [unit, "", [entry["pasta"][0]]]
    out = rless("exec", "scoped", "cat", "/proc/self/cgroup").expect().out
    assert "0::/\n" in out  # it sees its own group as the root
    rless("pause", "scoped").expect()
    assert Path(entry["cgroup"], "cgroup.freeze").read_text() == "1\n"
    rless("unpause", "scoped").expect()
    rless("restart", "-t", "0", "scoped").expect()
    wait_for(
        lambda: cgroup_of(live(rless, made)["init"][0]).endswith(f"/{unit}/container"),
        "the restarted container in its group",
    )
    rless("rm", "-f", "scoped").expect()
    wait_for(lambda: not os.path.exists(os.path.dirname(entry["cgroup"])), "the scope's end")


@delegated
def test_automatic_restart_stays_in_the_scope(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    made = rless.detach("again", "--restart=always", "sleep", "600")
    first = init_of(rless, made)
    os.kill(first, 9)
    wait_for(lambda: init_of(rless, made) not in (0, first), "the restart")
    assert cgroup_of(init_of(rless, made)).endswith(f"/rless-{made}.scope/container")
    rless("rm", "-f", "again").expect()


@delegated
def test_killed_monitor_leaves_no_scope(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    made = rless.detach("killed", "", "sleep", "600")
    entry = live(rless, made)
    os.kill(entry["monitor"][0], 9)
    rless("ps").expect()
    wait_for(lambda: not os.path.exists(os.path.dirname(entry["cgroup"])), "the scope's end")
    rless("rm", "killed").expect()


@delegated
def test_exec_is_moved_by_systemd_where_it_cannot_move_itself(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    made = rless.detach("far", "", "sleep", "600")
    procs = Path(live(rless, made)["cgroup"], "cgroup.procs")
    procs.chmod(0o444)
    done = rless("exec", "far", "sh", "-c", "echo $$; sleep 0.1").expect()
    assert done.out
    unit, below, pids = systemd.arguments("AttachProcessesToUnit")
    assert (unit, below, len(pids)) == (f"rless-{made}.scope", "/container", 1)
    rless("rm", "-f", "far").expect()


@delegated
def test_start_waits_for_the_end_of_the_last_scope(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    systemd.answers["StartTransientUnit"] = ("org.freedesktop.systemd1.UnitExists", "it is there")
    timer = threading.Timer(0.3, systemd.answers.clear)
    timer.start()
    out = rless.run((), "cat", "/proc/self/cgroup").expect().out
    timer.join()
    assert "0::/\n" in out
    assert [name for name, _ in systemd.calls].count("StartTransientUnit") > 1


@delegated
def test_refusal_by_systemd_falls_back_to_a_group_by_hand(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a group is made by hand, unless systemd was asked for by name."""
    reach(rless, systemd, monkeypatch)
    systemd.answers["StartTransientUnit"] = ("org.freedesktop.DBus.Error.AccessDenied", "no way")
    told = rless.run("--explain", "true").expect().err
    assert "manager: cgroupfs" in told
    assert "systemd: no way" in told
    error = rless.run("--cgroup-manager=systemd", "true").expect(125)
    assert "the control group manager systemd: no way" in error.one_line_error()
    words = ("--cgroup-manager", "systemd", "run", "--rm", rless.image)
    error = rless(*words, "true").expect(125)
    assert "no way" in error.one_line_error()
    assert rless.containers() == []


@delegated
def test_limits_without_controllers_are_refused_and_leave_nothing(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    error = rless.run("--cgroup-parent=a.slice -m 50m --cpu-shares=512", "true").expect(125)
    said = error.one_line_error()
    assert "no limit of CPU time and memory can be set" in said
    assert "--limits=try" in said
    found = systemd.properties()
    assert found["Slice"] == "a.slice"
    assert found["MemoryMax"] == (50 + 32) << 20
    assert found["CPUWeight"] == 59
    assert rless.containers() == []


@delegated
def test_scope_takes_two_round_trips(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of the move: systemd need not be asked to tell of its jobs but on a bus."""
    reach(rless, systemd, monkeypatch)
    limits = ("--limits=try", "-m50m", "--pids-limit=40")
    for flags in ((), limits):
        systemd.calls.clear()
        systemd.round_trips = 0
        rless.run(flags, "true").expect()
        assert systemd.round_trips == 2
        names = [name for name, _ in systemd.calls]
        assert (
            names
            == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"][
                0 if systemd.broker else 3 :
            ]
        )


@delegated
def test_systemd_is_not_asked_without_need(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    for flag in ("--cgroup-manager=none", "--cgroups=disabled", "--cgroup-manager=cgroupfs"):
        rless.run(flag, "true").expect()
    assert systemd.logins == []


@delegated
def test_refusal_is_reported_once_the_cgroup_is_needed(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was not let in is the command; who says so is the monitor."""
    reach(rless, systemd, monkeypatch)
    systemd.answers["AUTH"] = b"REJECTED EXTERNAL\r\n"
    error = rless.run("--cgroup-manager=systemd", "true").expect(125)
    assert "D-Bus refuses us" in error.one_line_error()
    assert "D-Bus refuses us" in rless.run("--explain", "true").expect().err
    assert rless.containers() == []


@delegated
def test_failed_job_is_reported(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(rless, systemd, monkeypatch)
    monkeypatch.setattr(systemd, "_start", lambda *_: "failed")
    error = rless.run("--cgroup-manager=systemd", "true").expect(125)
    assert "systemd could not start rless-" in error.one_line_error()
    assert rless.containers() == []


def test_parent_must_be_a_slice(
    rless: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeSystemd(tmp_path) as fake:
        reach(rless, fake, monkeypatch)
        for parent in ("x", "a/b.slice", ".slice"):
            flags = f"--cgroup-manager=systemd --cgroup-parent={parent}"
            error = rless.run(flags, "true").expect(125)
            assert "xxx.slice" in error.one_line_error()
        assert fake.calls == []


# -- by hand, and none ---------------------------------------------------------------------------


def explain(rless: Product, *flags: str) -> dict[str, Any]:
    """Return what --explain says of the control group."""
    done = rless.run(("--explain=json", *flags), "true")
    (step,) = (
        one for one in json.loads(done.expect().err)["steps"] if one["step"] == "control group"
    )
    found: dict[str, Any] = step["facts"]
    return found


@delegated
def test_cgroup_manager_is_chosen_by_name(rless: Product) -> None:
    assert explain(rless)["manager"] == "cgroupfs"
    assert explain(rless, "--cgroup-manager=cgroupfs")["manager"] == "cgroupfs"
    assert explain(rless, "--cgroups=split")["manager"] == "cgroupfs"
    for flag in ("--cgroup-manager=none", "--cgroups=disabled"):
        found = explain(rless, flag)
        assert (found["manager"], found["why"]) == ("none", "no control group was asked for")


@delegated
def test_cgroup_parent_by_hand(rless: Product) -> None:
    own = os.environ["RLESS_TEST_CGROUP"]
    place = cgroup_of(os.getpid())  # below that
    below = f"{place.rpartition('/')[0]}/parents/one"
    found = explain(rless, f"--cgroup-parent={below}")
    above = f"{own[: own.rindex(place.split('/')[1])].rstrip('/')}{below}".removesuffix("/one")
    assert found["directory"].startswith(f"{above}/one/rless-")
    os.rmdir(f"{above}/one")
    os.rmdir(above)
    for parent, words in (("/..", "is a path"), ("x.slice", "a slice is systemd's")):
        error = rless.run(f"--cgroup-parent={parent}", "true").expect(125)
        assert words in error.one_line_error()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("-m", "50m"), "memory"),
        (("--cpus=0.5",), "cpu"),
        (("--cpuset-cpus=0",), "cpuset"),
        (("--pids-limit=5",), "pids"),
        (("--blkio-weight=50",), "io"),
        (("--cgroup-conf=memory.high=5",), "memory"),
    ],
)
def test_limit_that_cannot_be_set_is_refused(
    rless: Product, flags: tuple[str, ...], what: str
) -> None:
    error = rless.run(flags, "true").expect(125)
    said = error.one_line_error()
    assert f"the controller {what} is not delegated to you" in said
    assert FIX in said or "systemd.unified_cgroup_hierarchy=1" in said
    assert rless.containers() == []


def test_best_effort_takes_what_comes_close(rless: Product) -> None:
    """What comes close is taken, and said in one line."""
    flags = "--limits=try -m 50m --pids-limit=40 --cpus=1"
    done = rless.run(flags, "cat", "/proc/self/limits").expect()
    said = done.one_line_error()
    assert "RLIMIT_DATA" in said
    assert "RLIMIT_NPROC" in said
    assert "no limit of CPU time" in said
    limits = {line[:26].strip(): line[26:].split()[:2] for line in done.lines()}
    assert limits["Max data size"] == [str(50 << 20)] * 2
    assert limits["Max processes"] == ["40"] * 2


def test_best_effort_of_a_set_of_cpus_is_affinity(rless: Product) -> None:
    cpu = max(os.sched_getaffinity(0))
    done = rless.run(
        f"--limits=try --cpuset-cpus={cpu}", "grep", "Cpus_allowed_list", "/proc/self/status"
    )
    assert done.expect().out.split() == ["Cpus_allowed_list:", str(cpu)]
    assert f"processes run on the CPUs {cpu}" in done.one_line_error()


def test_best_effort_limits_are_enforced(rless: Product) -> None:
    big = "x=$(head -c 80000000 /dev/zero | tr '\\0' a)"
    assert rless.run("--limits=try -m 50m", "sh", "-c", big).code != 0
    assert rless.run("--limits=try -m 500m", "sh", "-c", big).code == 0
    many = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all"
    assert "all" not in rless.run("--limits=try --pids-limit=5", "sh", "-c", many).out


def test_removing_a_limit_is_always_possible(rless: Product) -> None:
    for flags in (("--pids-limit=-1",), ("--cpu-quota=-1",), ("-m=0",), ("--cpus=0",)):
        rless.run(flags, "true").expect()


# -- update and inspect --------------------------------------------------------------------------


def test_update_of_a_stopped_container_holds_from_the_next_start(rless: Product) -> None:
    """What is asked for holds from the next start; it is tried there."""
    made = rless("create", "--name=later", rless.image, "true").expect().out.strip()
    rless("update", "-m", "64m", "--cpus=0.5", "--pids-limit=9", "later").expect()
    (found,) = json.loads(rless("inspect", "later").expect().out)
    config = found["HostConfig"]
    assert config["Memory"] == 64 << 20
    assert config["MemorySwap"] == 128 << 20
    assert config["NanoCpus"] == 500_000_000
    assert config["PidsLimit"] == 9
    error = rless("start", "-a", "later").expect(125).one_line_error()
    assert "not delegated to you" in error
    error = rless("update", "--cpu-quota=5000", "later").expect(1).one_line_error()
    assert "Conflicting options" in error
    assert made
    rless("rm", "later").expect()


def test_update_refuses_limits_as_run_does(rless: Product) -> None:
    made = rless.detach("runs", "", "sleep", "600")
    error = rless("update", "-m", "64m", "runs").expect(1).one_line_error()
    assert "the controller memory is not delegated to you" in error
    (found,) = json.loads(rless("inspect", "runs").expect().out)
    assert found["HostConfig"]["Memory"] == 0  # nothing was changed
    assert found["HostConfig"]["PidsLimit"] is None
    rless("update", "--restart=no", "--pids-limit=-1", "runs").expect()
    assert made
    rless("rm", "-f", "runs").expect()


@delegated
def test_cgroup_is_recorded_before_it_is_created() -> None:
    """A SIGKILL at any moment leaves nothing that nobody knows of."""
    seen = []
    pending = PendingCgroup()
    pending.ask(CgroupRequest("rless-witness", "cgroupfs", required=True), [])
    made = pending.finish((), lambda manager, path: seen.append((manager, path, exists(path))))
    made.destroy()
    assert seen == [("cgroupfs", made.path, False)]


@delegated
@pytest.mark.needs("tun", "pasta", "compiler", "default route")
def test_networks_outlive_the_session_that_created_them(
    rless: Product, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is nobody's: it must not end with the container, nor the unit, that came first."""
    reach(rless, systemd, monkeypatch)
    rless("network", "create", "net").expect()
    try:
        rless.detach("member", "--network=net", "sleep", "600")
        made = [values for name, values in systemd.calls if name == "StartTransientUnit"]
        unit, _, properties, _ = made[0]
        hub, pasta, files = dict(properties)["PIDs"]
        assert unit == f"rless-networks-{hub}.scope"
        assert cgroup_of(hub).endswith(f"/{unit}")
        assert {cgroup_of(pasta), cgroup_of(files)} == {cgroup_of(hub)}
    finally:
        rless("rm", "-f", "member").expect()
        rless("network", "rm", "net").expect()
