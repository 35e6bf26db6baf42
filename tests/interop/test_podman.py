"""`podman --runtime rless-oci`: the common commands, with the distribution's Podman."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.interop.conftest import Guest
from tests.lib.compiled import static_program

pytestmark = pytest.mark.needs(
    "podman", "conmon", "busybox", "script", "compiler", "user namespaces", "subordinate ids"
)
RUN = ("run", "--rm", "--network=none")


@pytest.fixture
def running(guest: Guest) -> Iterator[str]:
    """Give the name of a container that runs, and ends with 7 at SIGTERM."""
    name = f"c{time.monotonic_ns()}"
    words = ["/probe", "emit", "5", ",", "trap-term", "7"]
    guest.podman("run", "-d", "--name", name, "--network=none", "probe", *words).expect()
    yield name
    guest.podman("rm", "-f", "-t", "0", name)


def test_podman_gets_output_and_exit_code(guest: Guest) -> None:
    done = guest.podman(*RUN, "probe", "/probe", "args", "a", "b c", ",", "exit", "3")
    assert done.expect(3).lines() == ["arg 0 a", "arg 1 b c"]


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/no/such", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
    ],
)
def test_unusable_programs_are_reported(guest: Guest, program: str, code: int, says: str) -> None:
    assert says in guest.podman(*RUN, "probe", program).expect(code).err


def test_standard_input_is_passed_on(guest: Guest) -> None:
    assert guest.podman(*RUN, "-i", "probe", "/probe", "cat", input=b"x\0y").expect().raw == b"x\0y"


def test_podman_run_has_a_terminal(guest: Guest) -> None:
    done = guest.podman(*RUN, "-t", "probe", "/probe", "tty", ",", "stat", "/dev/console", tty=True)
    assert "isatty 1 1 1" in done.out
    assert "stat /dev/console char" in done.out


def test_container_is_confined(guest: Guest) -> None:
    options = ["--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--user=5:6"]
    options += ["--ulimit=nofile=99:99", "--tmpfs=/t:size=64k", "--pids-limit=0"]
    words = ["id", ",", "caps", ",", "write", "/x", "y", ",", "write", "/t/x", "y", ",", "rlimits"]
    lines = guest.podman(*RUN, *options, "probe", "/probe", *words).expect().lines()
    facts = dict(line.split(" ", 1) for line in lines if not line.startswith("write"))
    assert facts["uid"] == "5 5 5 5"
    assert facts["effective"] == "0" * 16
    assert facts["no_new_privs"] == "1"
    assert facts["nofile"] == "99 99"
    assert [line for line in lines if line.startswith("write")] == ["write EROFS", "write ok"]


def test_volume_is_mounted(guest: Guest) -> None:
    source = guest.base / "volume"
    source.mkdir(exist_ok=True)
    words = ["/probe", "write", "/v/x", "hello"]
    guest.podman(*RUN, "-v", f"{source}:/v", "probe", *words).expect()
    assert (source / "x").read_text() == "hello"
    assert (source / "x").stat().st_uid == os.getuid()
    done = guest.podman(*RUN, "-v", f"{source}:/v:ro", "probe", *words)
    assert done.out == "write EROFS\n"


def test_container_lives_from_create_to_rm(guest: Guest, running: str) -> None:
    assert guest.podman("logs", running).expect().out
    assert "Up" in guest.podman("ps", "--filter", f"name={running}").expect().out
    guest.podman("stop", "-t", "20", running).expect()
    (state,) = json.loads(guest.podman("inspect", running).expect().out)
    assert state["State"]["Status"] == "exited"
    assert state["State"]["ExitCode"] == 7
    assert state["OCIRuntime"] == str(guest.runtime)
    guest.podman("start", running).expect()
    guest.podman("kill", running).expect()
    assert guest.podman("wait", running).expect().out == "137\n"
    guest.podman("rm", running).expect()


def test_podman_exec_works(guest: Guest, running: str) -> None:
    done = guest.podman("exec", "-e", "A=b", running, "/probe", "env", ",", "exit", "5").expect(5)
    assert "A=b" in done.lines()
    assert guest.podman("exec", "-i", running, "/probe", "cat", input=b"x").expect().out == "x"
    assert "not found in" in guest.podman("exec", running, "nosuch").expect(127).err
    done = guest.podman("exec", "-w", "/proc", "-u", "9", running, "/probe", "cwd", ",", "id")
    assert done.expect().facts()["uid"] == "9 9 9 9"
    said = guest.podman("exec", "-t", running, "/probe", "tty", tty=True)
    assert "isatty 1 1 1" in said.out


def test_podman_exec_can_detach(guest: Guest, running: str) -> None:
    guest.podman("exec", "-d", running, "/probe", "write", "/x", "there").expect()
    deadline = time.monotonic() + 30
    while guest.podman("exec", running, "/probe", "read", "/x").out != "there":
        assert time.monotonic() < deadline


def test_podman_init_works(guest: Guest) -> None:
    """The application is not the first process then."""
    init = static_program("helpers/init.c")
    options = [*RUN, "--init", f"--init-path={init}"]
    facts = guest.podman(*options, "probe", "/probe", "session").expect().facts()
    assert (facts["pid"], facts["ppid"]) == ("2", "1")
    assert guest.podman(*options, "probe", "/probe", "exit", "6").code == 6


@pytest.mark.parametrize("option", ["--userns=auto", "--userns=nomap", "--uidmap=0:1:1000"])
def test_container_has_ids_of_its_own(guest: Guest, option: str) -> None:
    """Podman opens XDG_RUNTIME_DIR to others then, and names no HOME to `start` and `kill`."""
    name = f"c{time.monotonic_ns()}"
    words = ["--network=none", "probe", "/probe"]
    guest.podman("run", "-d", "--name", name, option, *words, "idmap", ",", "sleep", "60").expect()
    try:
        assert guest.podman("exec", name, "/probe", "id").expect().facts()["uid"] == "0 0 0 0"
        guest.podman("kill", name).expect()
        assert guest.podman("wait", name).expect().out == "137\n"
        assert guest.podman("logs", name).expect().out.split()[:2] == ["0", "1"]
    finally:
        guest.podman("rm", "-f", "-t", "0", name)
    guest.podman("run", "--rm", *words, "exit", "0").expect()  # one of the usual ids, later


def test_namespaces_of_another_container_are_joined(guest: Guest, running: str) -> None:
    options = [f"--{kind}=container:{running}" for kind in ("network", "pid", "ipc", "userns")]
    shared = guest.podman("exec", running, "/probe", "ns").expect().facts()
    own = guest.podman("run", "--rm", *options, "probe", "/probe", "ns").expect().facts()
    assert [own[kind] == shared[kind] for kind in ("net", "pid", "ipc", "user")] == [True] * 4
    assert own["mnt"] != shared["mnt"]


def test_podman_leaves_nothing(guest: Guest) -> None:
    guest.podman(*RUN, "probe", "/probe", "exit", "0").expect()
    left = guest.call(str(guest.runtime), "list", "-q").expect().lines()
    known = guest.podman("ps", "-aq", "--no-trunc").expect().lines()
    assert set(left) <= set(known)
