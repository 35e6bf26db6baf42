"""`pause` and `unpause`: by the control group, else by SIGSTOP to all processes."""

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


def test_all_processes_are_halted(rless: Product) -> None:
    container = rless.detach("p", "", "sh", "-c", f"({COUNT}) & ({COUNT}) & sleep 600")
    wait_for(lambda: len(states(rless, "p")) == 4, "the processes")
    done = rless("pause", "p").expect()
    assert done.out == "p\n"
    if not entry(rless, container)["cgroup"]:
        assert "no control group" in done.one_line_error()
        assert set(states(rless, "p")) == {"T"}
    before = counter(rless, "p")
    time.sleep(0.5)
    assert counter(rless, "p") == before
    assert "(Paused)" in rless("ps").out
    assert rless("unpause", "p").expect().out == "p\n"
    assert "T" not in states(rless, "p")
    rless("rm", "-f", "p").expect()


def test_what_cannot_be_paused(rless: Product) -> None:
    assert "no such container" in rless("pause", "p").expect(1).one_line_error()
    rless.detach("p", "", "sleep", "600")
    assert "not paused" in rless("unpause", "p").expect(1).one_line_error()
    rless("pause", "p").expect()
    assert "already paused" in rless("pause", "p").expect(1).one_line_error()
    rless("rm", "-f", "p").expect()
    rless.detach("p", "", "true")
    wait_for(lambda: "Exited" in rless("ps", "-a").out, "its end")
    assert "not running" in rless("pause", "p").expect(1).one_line_error()
    assert "not running" in rless("unpause", "p").expect(1).one_line_error()
    rless("rm", "p").expect()


def test_the_warning_comes_once(rless: Product) -> None:
    ids = [rless.detach(name, "", "sleep", "600") for name in ("p", "q")]
    done = rless("pause", "p", "q").expect()
    assert done.out == "p\nq\n"
    without = not any(entry(rless, one)["cgroup"] for one in ids)
    assert done.err.count("warning") == (1 if without else 0)
    rless("rm", "-f", "p", "q").expect()


def test_processes_of_others_are_left_alone(rless: Product) -> None:
    """In the host's pid namespace only what is the container's is halted."""
    rless.detach("p", "--pid host", "sh", "-c", "sleep 601 & sleep 602")
    rless.detach("q", "--pid host", "sleep", "603")
    wait_for(lambda: len(states(rless, "p")) == 3, "the processes")
    rless("pause", "p").expect()
    assert "T" not in states(rless, "q")
    with open(f"/proc/{os.getpid()}/stat") as own:
        assert own.read().split()[2] == "R"
    rless("unpause", "p").expect()
    rless("rm", "-f", "p", "q").expect()


def test_events(rless: Product) -> None:
    container = rless.detach("p", "", "sleep", "600")
    rless("pause", "p").expect()
    rless("unpause", "p").expect()
    lines = (rless.storage / "events").read_text().splitlines()
    found = [one["action"] for one in map(json.loads, lines) if one["id"] == container]
    assert [action for action in found if "pause" in action] == ["pause", "unpause"]
    rless("rm", "-f", "p").expect()


@pytest.mark.needs("delegated cgroup")
def test_by_the_control_group(rless: Product) -> None:
    container = rless.detach("p", "", "sh", "-c", COUNT)
    group = entry(rless, container)["cgroup"]
    assert group
    done = rless("pause", "p").expect()
    assert not done.err
    assert Path(f"{group}/cgroup.freeze").read_text() == "1\n"
    rless("unpause", "p").expect()
    assert Path(f"{group}/cgroup.freeze").read_text() == "0\n"
    rless("rm", "-f", "p").expect()
