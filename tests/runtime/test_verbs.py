"""Other verbs of rless-oci: exec, ps, pause, resume, update, events, and run's modes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.bundle import ENVIRONMENT, Bundle, complaint
from tests.runtime.test_terminal import Listener, listener, read_all

__all__ = ["listener"]
pytestmark = pytest.mark.needs("compiler", "user namespaces")


@pytest.fixture
def running(live: Bundle) -> Bundle:
    """Return a bundle whose container runs."""
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    return live


def execute(running: Bundle, *words: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    done = running.call("exec", *options, running.id, "/probe", *words)
    return done.expect().facts()


# -- exec ----------------------------------------------------------------------------------------


def test_exec_keeps_no_new_privs(running: Bundle) -> None:
    """no_new_privs is the container's, whatever the options say (class 35)."""
    assert execute(running, "caps")["no_new_privs"] == "1"


def test_exec_process_json_cannot_loosen_confinement(running: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(json.dumps({"args": ["/probe", "caps"], "cwd": "/"}))
    facts = running.call("exec", "-p", str(path), running.id).expect().facts()
    assert facts["no_new_privs"] == "1"
    # Where it names no capabilities they are the container's, as in runc and crun.
    assert facts["bounding"] == execute(running, "caps")["bounding"]


def test_added_capability_is_ambient_where_others_may_be(live: Bundle) -> None:
    """As in runc: a user other than root would lose it at execve."""
    names = [*live.process["capabilities"]["bounding"], "CAP_SYS_CHROOT"]
    for kind in ("bounding", "effective", "inheritable", "permitted"):
        live.process["capabilities"][kind] = names
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    facts = execute(live, "caps", options=("--cap", "CAP_SYS_CHROOT"))
    assert int(facts["ambient"], 16) == 1 << 18


def test_options_may_stand_anywhere(running: Bundle) -> None:
    done = running.call("exec", running.id, "-e", "A=1", "/probe", "args", "-e", "B=2", "--cwd")
    assert done.expect().lines() == ["arg 0 -e", "arg 1 B=2", "arg 2 --cwd"]
    done = running.call("exec", "-eA=1", "--env=B=2", "--", running.id, "/probe", "env")
    assert {"A=1", "B=2"} <= set(done.expect().lines())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--user", "root"], "--user: 'root' is not the number"),
        (["--user", "1:x"], "--user: 'x' is not the number"),
        (["--cap", "CAP_X"], "unknown capability"),
        (["--cwd", "relative"], "not an absolute path"),
        (["--cwd", "/no/such"], "cannot enter the working directory"),
        (["-e", "nothing"], "not NAME=VALUE"),
        (["--console-socket", "/x"], "is for a process with a terminal"),
        (["-d", "-t"], "needs --console-socket"),
        (["-p", "/no/such"], "cannot read /no/such"),
    ],
)
def test_exec_refuses_wrong_requests(running: Bundle, options: list[str], says: str) -> None:
    done = running.call("exec", *options, running.id, "/probe", "id")
    assert done.code != 0
    assert done.out == ""
    assert says in complaint(done)


@pytest.mark.parametrize("content", ["", "[]", '{"args": []}', '{"args": "x"}', '{"cwd": "/"}'])
def test_exec_refuses_a_bad_process_json(running: Bundle, tmp_path: Path, content: str) -> None:
    path = tmp_path / "process.json"
    path.write_text(content)
    done = running.call("exec", "-p", str(path), running.id)
    assert done.code == 1
    assert complaint(done).startswith(str(path))


def test_exec_needs_a_command(running: Bundle) -> None:
    assert "needs a command" in complaint(running.call("exec", running.id))


def test_exec_can_have_its_own_terminal(running: Bundle, listener: Listener) -> None:
    """A pty of the container's own (class 37)."""
    words = ["exec", "-t", "--console-socket", listener.path, running.id, "/probe", "tty"]
    with subprocess.Popen(running.command(*words), env=ENVIRONMENT) as process:
        said = read_all(listener.receive())
        assert process.wait(10) == 0
    assert "isatty 1 1 1" in said
    assert "controlling ok" in said


def on_a_terminal(command: list[str], typed: bytes = b"") -> tuple[int, str]:
    """Run a command on a pty; return its exit code and what it printed."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, ENVIRONMENT)
    os.write(master, typed)
    out = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # EIO: it has ended
            break
        if not chunk:
            break
        out += chunk
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def test_exec_can_use_the_callers_terminal(running: Bundle) -> None:
    code, out = on_a_terminal(running.command("exec", "-t", running.id, "/probe", "tty"))
    assert code == 0
    assert "isatty 1 1 1" in out


def test_run_can_use_the_callers_terminal(live: Bundle) -> None:
    live.process["terminal"] = True
    live.write("tty", ",", "exit", "7")
    code, out = on_a_terminal(live.command("run", "-b", str(live.path), live.id))
    assert code == 7
    assert "isatty 1 1 1" in out


@pytest.mark.parametrize("verb", ["create", "exec"])
def test_pidfd_is_sent_over_a_socket(live: Bundle, listener: Listener, verb: str) -> None:
    """As in runc: to signal and wait for a process by what is surely it."""
    wanted = ["--pidfd-socket", listener.path]
    live.create("sleep", "60", options=wanted if verb == "create" else [])
    if verb == "exec":
        live.call("start", live.id).expect()
        null = subprocess.DEVNULL
        words = ["exec", "-d", *wanted, live.id, "/probe", "sleep", "60"]
        live.call(*words, stdout=null, stderr=null).expect()
    pidfd = listener.receive()
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    pid = int(text.split("\nPid:")[1].split()[0])
    assert (pid == live.pid()) == (verb == "create")
    assert Path(f"/proc/{pid}").exists()


def test_exec_starts_nothing_without_somebody_at_the_pidfd_socket(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    done = live.call("exec", "--pidfd-socket", "/no/such", live.id, "/probe", "id")
    assert "--pidfd-socket /no/such: No such file" in complaint(done)
    assert "uid" not in done.out


# -- run -----------------------------------------------------------------------------------------


def test_run_can_detach(live: Bundle) -> None:
    null = subprocess.DEVNULL
    live.run("sleep", "60", options=["-d"], stdout=null, stderr=null).expect()
    assert live.status() == "running"
    live.call("delete", "-f", live.id).expect()


def test_detached_run_reports_a_missing_program(live: Bundle) -> None:
    live.process["args"] = ["/nothing"]
    live.write()
    done = live.call("run", "--detach", "-b", str(live.path), live.id)
    assert done.code == 127
    assert live.id not in live.containers()


def test_run_keep_leaves_the_state(live: Bundle) -> None:
    assert live.run("exit", "3", options=["--keep"]).code == 3
    assert live.status() == "stopped"
    live.call("delete", live.id).expect()


def test_output_into_a_pipe_has_no_carriage_returns(live: Bundle) -> None:
    """As in runc: a terminal ends lines with two characters, a file with one."""
    live.process["terminal"] = True
    assert live.run("args", "a").expect().raw == b"arg 0 a\n"


# -- ps, kill --all, pause, resume, update, events ------------------------------------------------


def test_ps_lists_processes(running: Bundle) -> None:
    """Each is held by a pidfd before it is signalled (class 39)."""
    (only,) = json.loads(running.call("ps", "-f", "json", running.id).expect().out)
    assert only == running.pid()
    command = running.command("exec", running.id, "/probe", "sleep", "60")
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 30
        while len(running.call("ps", running.id).expect().lines()) != 3:
            assert time.monotonic() < deadline
        assert running.call("ps", running.id).expect().lines()[:2] == ["PID", str(only)]
        running.call("kill", "-a", running.id, "KILL").expect()
        assert process.wait(10) == 128 + signal.SIGKILL
    running.wait_status("stopped")
    running.call("kill", "-a", running.id, "0").expect()
    assert "not running" in complaint(running.call("ps", running.id))


@pytest.mark.needs("delegated cgroup")
def test_pause_and_resume_halt_and_continue(running: Bundle) -> None:
    assert "is running, not paused" in complaint(running.call("resume", running.id))
    running.call("pause", running.id).expect()
    assert running.status() == "paused"
    assert "is paused" in complaint(running.call("pause", running.id))
    assert "is paused" in complaint(running.call("exec", running.id, "/probe", "id"))
    running.call("resume", running.id).expect()
    assert running.status() == "running"
    running.call("pause", running.id).expect()
    running.call("delete", "--force", running.id).expect()
    assert running.id not in running.containers()


@pytest.mark.needs("delegated cgroup")
def test_exec_can_wait_for_the_end_of_a_pause(running: Bundle) -> None:
    running.call("pause", running.id).expect()
    command = running.command("exec", "--ignore-paused", running.id, "/probe", "exit", "3")
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        running.wait_status("paused")
        running.call("resume", running.id).expect()
        assert process.wait(30) == 3


def test_pause_without_a_cgroup_is_refused(live: Bundle) -> None:
    live.write("sleep", "60")
    null = subprocess.DEVNULL
    command = live.command("run", "-d", "-b", str(live.path), live.id)
    at = command.index("--root")
    command[at:at] = ["--cgroup-manager", "disabled"]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdin=null, stdout=null, stderr=null)
    for verb in ("pause", "events"):
        assert "no control group of its own" in complaint(live.call(verb, live.id))


@pytest.mark.needs("delegated cgroup")
def test_events_print_statistics(running: Bundle) -> None:
    said = json.loads(running.call("events", "--stats", running.id).expect().out)
    assert said["type"] == "stats"
    assert said["id"] == running.id
    assert said["data"]["cpu"]["usage"]["total"] >= 0


@pytest.mark.needs("delegated cgroup")
def test_events_end_with_the_container(running: Bundle) -> None:
    command = running.command("events", "--interval", "50ms", running.id)
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == running.id
        running.call("delete", "--force", running.id).expect()
        process.stdout.read()
        assert process.wait(30) == 0


def test_list_has_the_keys_of_runc(running: Bundle) -> None:
    (only,) = json.loads(running.call("list", "--format", "json").expect().out)
    keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations"]
    assert list(only) == [*keys, "owner"]
    assert only["rootfs"] == str(running.rootfs)


def test_update_refuses_wrong_requests(running: Bundle, tmp_path: Path) -> None:
    for options, says in (
        (["--memory", "x"], "not a number"),
        (["-r", "/no/such"], "cannot read /no/such"),
        (["--pids-limit", "10", "unknown"], "unexpected argument"),
        (["--cpu-idle", "2"], "cpu.idle is not between 0 and 1"),
        (["--cpu-rt-runtime", "5"], "real-time scheduling of groups needs root"),
    ):
        done = running.call("update", *options, running.id)
        assert done.code != 0
        assert says in complaint(done)
    path = tmp_path / "resources.json"
    path.write_text('{"memory": {"limit": "1"}}')
    done = running.call("update", "-r", str(path), running.id)
    assert complaint(done) == f"{path}: memory.limit is not a number"


def test_update_takes_zero_as_unset(live: Bundle) -> None:
    """The document of `docker update --restart`; a weight of 0 is not out of range."""
    zeros = {"blockIO": {"weight": 0}, "cpu": {"shares": 0, "cpus": ""}, "memory": {"limit": 0}}
    live.linux["resources"] = json.loads(json.dumps(zeros))
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    live.call("update", "-r", "-", live.id, input=json.dumps(zeros).encode()).expect()
    live.call("update", "--blkio-weight", "0", live.id).expect()
    assert "is not between 10 and 1000" in complaint(
        live.call("update", "--blkio-weight", "5", live.id)
    )


# -- what is about the runtime -----------------------------------------------------------------


def test_version_has_the_form_podman_reads(bundle: Bundle) -> None:
    lines = bundle.call("--version").expect().lines()
    assert re.fullmatch(r"rless-oci version \d+\.\d+\.\d+\S*", lines[0])
    assert lines[1] == "spec: 1.2.0"
    assert lines[2].startswith("+")


def test_help_is_printed(bundle: Bundle) -> None:
    whole = bundle.call("--help").expect().out
    verbs = "create run start exec state ps kill pause resume update events delete"
    for verb in verbs.split():
        assert f"\n  {verb} " in whole or f", {verb} " in whole
        said = bundle.call(verb, "--help").expect().out
        assert said.startswith(f"usage: rless-oci [OPTION...] {verb} ID")


def test_features_are_true(bundle: Bundle) -> None:
    features = json.loads(bundle.call("features").expect().out)
    assert "time" in features["linux"]["namespaces"]
    assert set(features["hooks"]) == {
        *("prestart", "createRuntime", "createContainer", "startContainer"),
        *("poststart", "poststop"),
    }


def test_delete_accepts_a_regular_expression(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("delete", "--regex", "-f", "^t").expect()
    assert live.id not in live.containers()
