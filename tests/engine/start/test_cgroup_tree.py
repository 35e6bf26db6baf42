"""The control group of a container in a delegated tree, and its use.

No controller is needed, so this holds on hosts whose controllers are those of version 1, too.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.life import init_of, monitor_of
from tests.lib.product import KEY_AT_CGROUP, Product, python_launcher, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "delegated cgroup")

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /dev/shm/n; done"


def group(rless: Product, container: str) -> Path:
    found = entry(rless, container)["cgroup"]
    assert isinstance(found, str) and found
    return Path(found)


def entry(rless: Product, container: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((rless.live / container).read_text())
    return found


def members(directory: Path) -> set[int]:
    """Return the pids in a control group and those below it."""
    found: set[int] = set()
    for place, _, _ in os.walk(directory):
        try:
            found.update(map(int, Path(place, "cgroup.procs").read_text().split()))
        except OSError:
            pass  # it was removed since it was listed
    return found


def usage(directory: Path) -> int:
    text = (directory / "cpu.stat").read_text()
    return int(text.split()[1])


def test_cgroup_contains_exactly_the_container(rless: Product) -> None:
    made = rless.detach("cc", "", "sh", "-c", "sleep 600 & sleep 600")
    place = group(rless, made)
    wait_for(lambda: len(members(place)) >= 2, "its processes")
    before = len(members(place))
    rless("exec", "-d", "cc", "sleep", "601").expect()
    wait_for(lambda: len(members(place)) >= before + 1, "what exec started")
    inside = members(place)
    assert init_of(rless, made) in inside
    assert monitor_of(rless, made) not in inside
    assert os.environ["RLESS_TEST_CGROUP"] in str(place)
    other = rless.detach("dd", "", "sleep", "600")
    assert group(rless, other) != place
    assert not inside & members(group(rless, other))
    rless("rm", "-f", "cc").expect()
    assert not place.exists()
    assert group(rless, other).exists()
    rless("rm", "-f", "dd").expect()


def test_pause_stops_all_progress(rless: Product) -> None:
    made = rless.detach("pp", "", "sh", "-c", f"({COUNT}) & {COUNT}")
    place = group(rless, made)
    rless("pause", "pp").expect()
    assert "frozen 1" in (place / "cgroup.events").read_text()
    before = usage(place)
    time.sleep(0.3)
    assert usage(place) == before
    rless("unpause", "pp").expect()
    wait_for(lambda: usage(place) > before, "progress")
    rless("rm", "-f", "pp").expect()


def test_paused_container_is_removed_at_once(rless: Product) -> None:
    """SIGKILL alone would wait for the thaw of those that shall die."""
    made = rless.detach("pp", "", "sh", "-c", "sleep 600 & sleep 600")
    place = group(rless, made)
    rless("pause", "pp").expect()
    rless("rm", "-f", "pp").expect()
    assert not place.exists()


def test_processes_in_the_hosts_pid_namespace_are_killed(rless: Product) -> None:
    """No pid namespace ends them, so the control group must."""
    script = "i=0; while [ $i -lt 100 ]; do setsid sleep 600 & i=$((i+1)); done; exec sleep 600"
    made = rless.detach("hh", "--pid host", "sh", "-c", script)
    place = group(rless, made)
    wait_for(lambda: len(members(place)) >= 101, "a hundred processes")
    rless("rm", "-f", "hh").expect()
    assert not place.exists()
    rless.assert_clean()


@pytest.mark.parametrize("whom", ["monitor", "init"])
def test_kill_leaves_no_cgroup(rless: Product, whom: str) -> None:
    made = rless.detach("kk", "", "sh", "-c", "sleep 600 & sleep 600")
    place = group(rless, made)
    pid = monitor_of(rless, made) if whom == "monitor" else init_of(rless, made)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not place.exists() or not members(place), "the end of its processes")
    wait_for(lambda: rless("ps", "-q").out == "", "rless to know")
    wait_for(lambda: not place.exists(), "the control group to go")
    assert json.loads((rless.container() / "exit.json").read_text())["code"] == 137
    rless("rm", "kk").expect()


def test_cgroup_is_created_for_each_start(rless: Product) -> None:
    made = rless.detach("ss", "", "sleep", "600")
    rless("restart", "-t", "0", "ss").expect()
    place = group(rless, made)
    assert members(place) == {init_of(rless, made)}
    rless("stop", "-t", "0", "ss").expect()
    assert not place.exists()
    rless("rm", "ss").expect()


def test_cgroups_can_be_disabled(rless: Product) -> None:
    made = rless.detach("nn", "--cgroups=disabled", "sleep", "600")
    assert not entry(rless, made)["cgroup"]
    own = Path("/proc/self/cgroup").read_text()
    assert Path(f"/proc/{init_of(rless, made)}/cgroup").read_text() == own
    rless("rm", "-f", "nn").expect()


def test_cgroup_v2_only_host_works(rless: Product) -> None:
    """A mount namespace whose /sys/fs/cgroup is the delegated tree, as on hosts without v1."""
    start = " ".join(shlex.quote(word) for word in rless.argv())
    script = f"""mount -t cgroup2 none /sys/fs/cgroup || exit
        rless() {{ {start} "$@"; }}
        rless run -d --name uu --userns single --network none {rless.image} sleep 600 >/dev/null
        find /sys/fs/cgroup -name 'rless-*' | wc -l
        rless pause uu; cat /sys/fs/cgroup/rless-*/cgroup.freeze
        rless ps --format '{{{{.Status}}}}'
        rless rm -f uu; find /sys/fs/cgroup -name 'rless-*' | wc -l"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--cgroup", "sh", "-c", script],
        capture_output=True,
        text=True,
        env=rless.environment(),
    )
    found, paused, frozen, status, removed, left = done.stdout.splitlines()
    assert (found, paused, frozen, removed, left) == ("1", "uu", "1", "uu", "0"), done
    assert "(Paused)" in status


@pytest.mark.parametrize("verb", ["run", "start"])
def test_interrupt_after_cgroup_creation_removes_the_group(
    rless: Product, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It is noted before it is there, so it goes with the start; nobody else knows of it."""
    words = ["--name", "key", "--network", "none", rless.image, "true"]
    if verb == "start":
        rless("create", *words).expect()
    *python, start, root, name = python_launcher()
    program = [*python, KEY_AT_CGROUP + start, root, name]
    with monkeypatch.context() as patched:
        patched.setattr(rless, "argv", lambda *more: [*program, *more])
        done = rless(verb, *(words if verb == "run" else ["key"]))
    assert (done.code, done.err) == (130, "made"), done
    assert [path.name for path in Path(os.environ["RLESS_TEST_CGROUP"]).rglob("rless-*")] == []
    rless("rm", "-f", "key")
    rless.assert_clean(0)
