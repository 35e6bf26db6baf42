"""`pause` and `unpause`: by the cgroup freezer, else by SIGSTOP to all processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; done"


def states(rless: Product, name: str) -> list[str]:
    return [line[0] for line in rless("top", name, "-o", "state").expect().lines()[1:]]


def counter(rless: Product, name: str) -> str:
    return str(rless("top", name, "-o", "cputimes,time,stat").expect().out)


def entry(rless: Product, container: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((rless.live / container).read_text())
    return found


def test_pause_halts_all_processes(rless: Product) -> None:
    container = rless.detach("pp", "", "sh", "-c", f"({COUNT}) & ({COUNT}) & sleep 600")
    wait_for(lambda: len(states(rless, "pp")) == 3, "the processes")
    done = rless("pause", "pp").expect()
    assert done.out == "pp\n"
    if not entry(rless, container)["cgroup"]:
        assert "no control group" in done.one_line_error()
        assert set(states(rless, "pp")) == {"T"}
    before = counter(rless, "pp")
    time.sleep(0.5)
    assert counter(rless, "pp") == before
    assert "(Paused)" in rless("ps").out
    assert rless("unpause", "pp").expect().out == "pp\n"
    assert "T" not in states(rless, "pp")
    rless("rm", "-f", "pp").expect()


def test_pause_refuses_containers_that_do_not_run(rless: Product) -> None:
    assert "no such container" in rless("pause", "pp").expect(1).one_line_error()
    rless.detach("pp", "", "sleep", "600")
    assert "not paused" in rless("unpause", "pp").expect(1).one_line_error()
    rless("pause", "pp").expect()
    assert "already paused" in rless("pause", "pp").expect(1).one_line_error()
    rless("rm", "-f", "pp").expect()
    rless.detach("pp", "", "true")
    wait_for(lambda: "Exited" in rless("ps", "-a").out, "its end")
    assert "not running" in rless("pause", "pp").expect(1).one_line_error()
    assert "not running" in rless("unpause", "pp").expect(1).one_line_error()
    rless("rm", "pp").expect()


def test_warning_is_printed_once(rless: Product) -> None:
    ids = [rless.detach(name, "", "sleep", "600") for name in ("pp", "qq")]
    done = rless("pause", "pp", "qq").expect()
    assert done.out == "pp\nqq\n"
    without = not any(entry(rless, one)["cgroup"] for one in ids)
    assert done.err.count("warning") == (1 if without else 0)
    rless("rm", "-f", "pp", "qq").expect()


def test_pause_leaves_processes_of_the_host_alone(rless: Product) -> None:
    """In the host's pid namespace only what is the container's is halted."""
    rless.detach("pp", "--pid host", "sh", "-c", "sleep 601 & sleep 602")
    rless.detach("qq", "--pid host", "sleep", "603")
    wait_for(lambda: len(states(rless, "pp")) == 2, "the processes")
    rless("pause", "pp").expect()
    assert "T" not in states(rless, "qq")
    with open(f"/proc/{os.getpid()}/stat") as own:
        assert own.read().split()[2] == "R"
    rless("unpause", "pp").expect()
    (child,) = [int(row.split()[0]) for row in rless("top", "pp", "-o", "pid,args").lines()
                if row.endswith("sleep 601")]  # fmt: skip
    rless("rm", "-f", "pp", "qq").expect()
    wait_for(lambda: not os.path.exists(f"/proc/{child}"), "its end, with the container")


def test_pause_and_unpause_record_events(rless: Product) -> None:
    container = rless.detach("pp", "", "sleep", "600")
    rless("pause", "pp").expect()
    rless("unpause", "pp").expect()
    lines = (rless.storage / "events").read_text().splitlines()
    found = [one["action"] for one in map(json.loads, lines) if one["id"] == container]
    assert [action for action in found if "pause" in action] == ["pause", "unpause"]
    rless("rm", "-f", "pp").expect()


@pytest.mark.needs("delegated cgroup")
def test_pause_uses_the_cgroup_freezer(rless: Product) -> None:
    container = rless.detach("pp", "", "sh", "-c", COUNT)
    group = entry(rless, container)["cgroup"]
    assert group
    done = rless("pause", "pp").expect()
    assert not done.err
    assert Path(f"{group}/cgroup.freeze").read_text() == "1\n"
    rless("unpause", "pp").expect()
    assert Path(f"{group}/cgroup.freeze").read_text() == "0\n"
    rless("rm", "-f", "pp").expect()
