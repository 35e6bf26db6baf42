"""`exec`: one more process in a running container."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")


@pytest.fixture
def running(bundle: Bundle) -> Iterator[Bundle]:
    """Give a container that runs."""
    with bundle.session():
        bundle.process["env"] = ["A=1", "PATH=/"]
        bundle.create("sleep", "60")
        bundle.call("start", bundle.id).expect()
        yield bundle


def described(running: Bundle, tmp_path: Path, **more: Any) -> str:
    """Write a process.json; return its path."""
    process = {**running.process, "args": ["/probe", "id"], **more}
    path = tmp_path / "process.json"
    path.write_text(json.dumps(process))
    return str(path)


def test_exec_runs_a_command(running: Bundle) -> None:
    assert running.call("exec", running.id, "/probe", "args", "a", "-b").expect().lines() == [
        "arg 0 a",
        "arg 1 -b",
    ]


def test_exec_is_in_the_same_namespaces(running: Bundle) -> None:
    first = running.call("exec", running.id, "/probe", "ns").expect().facts()
    second = running.call("exec", running.id, "/probe", "ns", ",", "pids").expect().facts()
    assert "1" in second.pop("pids").split()
    assert first == second


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code_is_passed_on(running: Bundle, code: int) -> None:
    assert running.call("exec", running.id, "/probe", "exit", str(code)).code == code


def test_streams_are_passed_on(running: Bundle) -> None:
    done = running.call("exec", running.id, "/probe", "cat", input=b"x\0y\n")
    assert done.expect().raw == b"x\0y\n"
    done = running.call("exec", running.id, "/probe", "stderr", "oops")
    assert done.out == ""
    assert "oops" in done.err


def test_environment_is_extended(running: Bundle) -> None:
    words = ["exec", "-e", "B=2", "-e", "A=3", running.id, "/probe", "env"]
    lines = running.call(*words).expect().lines()
    assert "A=3" in lines
    assert "B=2" in lines  # an older crun forgets all others


def test_directory_and_user_are_set(running: Bundle) -> None:
    words = ["exec", "--cwd", "/proc", "-u", "5:6", running.id, "/probe", "cwd", ",", "id"]
    facts = running.call(*words).expect().facts()
    assert facts["cwd"] == "/proc"
    assert facts["uid"] == "5 5 5 5"
    assert facts["gid"] == "6 6 6 6"


def test_capability_can_be_added(running: Bundle) -> None:
    """What is asked for, in the container's user namespace only (class 31)."""
    words = ["exec", "--cap", "CAP_SYS_CHROOT", running.id, "/probe", "caps"]
    facts = running.call(*words).expect().facts()
    for kind in ("bounding", "effective", "permitted"):
        assert int(facts[kind], 16) >> 18 & 1


def test_process_json_is_used(running: Bundle, tmp_path: Path) -> None:
    more = {"user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "cwd": "/proc"}
    words = [{"args": ["/probe", "id", ",", "cwd", ",", "args", "x"]}, more]
    path = described(running, tmp_path, **words[0], **words[1])
    facts = running.call("exec", "--process", path, running.id).expect().facts()
    assert facts["uid"] == "7 7 7 7"
    assert facts["groups"].split() == ["9"]
    assert facts["cwd"] == "/proc"


@pytest.mark.parametrize("word", ["/nothing", "nothing"])
def test_missing_program_is_reported(running: Bundle, word: str) -> None:
    done = running.call("exec", running.id, word)
    assert done.code != 0
    assert done.err


def test_detached_exec_writes_a_pid_file(running: Bundle, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    words = ["exec", "-d", "--pid-file", str(pid_file), running.id, "/probe", "sleep", "60"]
    null = subprocess.DEVNULL
    running.call(*words, stdout=null, stderr=null).expect()
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 30
    while b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stopped_container_is_refused(running: Bundle) -> None:
    running.call("kill", running.id, "KILL").expect()
    running.wait_status("stopped")
    assert running.call("exec", running.id, "/probe", "id").code != 0


def test_unknown_container_is_refused(running: Bundle) -> None:
    done = running.call("exec", "unknown", "/probe", "id")
    assert done.code != 0
    assert done.out == ""
