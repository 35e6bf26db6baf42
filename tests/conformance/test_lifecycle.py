"""create, start, state, kill, delete, list, each in a process of its own (runtime.md)."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.fixture
def live(bundle: Bundle) -> Iterator[Bundle]:
    """Give a bundle whose runtime's calls share one user namespace."""
    with bundle.session():
        yield bundle


def test_container_lives_from_create_to_delete(live: Bundle) -> None:
    live.create("args", "started", ",", "sleep", "60")
    assert live.status() == "created"
    assert live.output() == ""
    state = json.loads(live.call("state", live.id).expect().out)
    assert state["id"] == live.id
    assert state["bundle"] == str(live.path)
    assert state["pid"] > 0
    live.call("start", live.id).expect()
    live.wait_status("running")
    assert live.wait_output("started") == "arg 0 started\n"
    assert live.call("list", "-q").expect().out.split() == [live.id]
    assert live.call("delete", live.id).code != 0
    assert live.status() == "running"
    live.call("kill", live.id, "KILL").expect()
    live.wait_status("stopped")
    live.call("delete", live.id).expect()
    assert live.call("state", live.id).code != 0
    assert live.call("list", "-q").expect().out == ""


def test_unknown_container_is_an_error(live: Bundle) -> None:
    for verb in ("state", "start", "kill", "delete"):
        done = live.call(verb, "unknown")
        assert done.code != 0
        assert done.out == ""
        assert done.err != ""


def test_start_works_once(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    assert live.call("start", live.id).code != 0


def test_id_is_used_once(live: Bundle) -> None:
    live.create("sleep", "60")
    live.write()
    assert live.call("create", "-b", str(live.path), live.id, stdout=subprocess.DEVNULL).code != 0
    assert live.status() == "created"


def test_kill_accepts_name_and_number(live: Bundle) -> None:
    live.create("wait-signal", "15")
    live.call("start", live.id).expect()
    live.wait_output("ready")
    live.call("kill", live.id, "SIGUSR1").expect()
    live.wait_output("signal 10")
    live.call("kill", live.id, "12").expect()
    live.wait_output("signal 12")
    live.call("kill", live.id, "TERM").expect()
    live.wait_status("stopped")
    assert live.call("kill", live.id, "KILL").code != 0


def test_created_container_can_be_killed(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("kill", live.id, "KILL").expect()
    live.wait_status("stopped")
    assert live.call("start", live.id).code != 0


def test_forced_delete_kills_the_container(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    pid = live.pid()
    live.call("delete", "--force", live.id).expect()
    deadline = time.monotonic() + 30
    while not is_gone(pid):  # crun does not wait for its end
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert live.call("list", "-q").expect().out == ""
    live.call("delete", "--force", live.id).expect()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../x"])
def test_wrong_ids_are_refused(live: Bundle, name: str) -> None:
    live.write("id")
    assert live.call("create", "-b", str(live.path), name).code != 0
    assert live.call("state", name).code != 0


def test_annotations_are_in_the_state(live: Bundle) -> None:
    live.spec["annotations"] = {"a.b/c": "d e", "x": ""}
    live.create("sleep", "60")
    assert json.loads(live.call("state", live.id).expect().out)["annotations"] == {
        "a.b/c": "d e",
        "x": "",
    }
