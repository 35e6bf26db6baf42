"""rootless/runtime/host/lifecycle.py and state.py: deaths and leftovers (class 39)."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.lib.bundle import ENVIRONMENT, Bundle, complaint
from tests.lib.product import KEY_AT_CGROUP

pytestmark = pytest.mark.needs("compiler", "user namespaces")


def children() -> set[int]:
    """Return the pids of all processes of the user that run the probe, or are a runtime's."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state not in "ZX" and (command.startswith(b"/probe") or b"\0--root\0" in command):
                found.add(int(name))
    return found


def control_groups(container_id: str) -> list[Path]:
    """Return the control groups of containers with such an id."""
    own = os.environ.get("RLESS_TEST_CGROUP")
    return list(Path(own).rglob(f"rless-{container_id}")) if own else []


def assert_gone(pids: set[int]) -> None:
    """Wait until none of these processes is left."""
    deadline = time.monotonic() + 30
    while pids & children():
        assert time.monotonic() < deadline, pids & children()
        time.sleep(0.01)


def start_run(bundle: Bundle, *words: str, **more: object) -> subprocess.Popen[bytes]:
    bundle.write(*words)
    return subprocess.Popen(
        bundle.command("run", "-b", str(bundle.path), bundle.id),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        **more,  # type: ignore[call-overload]
    )


def test_state_of_an_unknown_container_is_an_error(bundle: Bundle) -> None:
    for verb in ("state", "start", "kill", "delete"):
        done = bundle.call(verb, "unknown")
        assert (done.code, done.out) == (1, "")
        assert complaint(done) == "container unknown does not exist"


@pytest.mark.parametrize(
    "name", ["/", "a/b", "..", ".", "", ".hidden", "a b", "\x1b[2J", "x" * 1025, "ä", "a\nb", "*"]
)
def test_wrong_ids_are_refused(bundle: Bundle, name: str) -> None:
    bundle.write("id")
    for verb in ("create", "run"):
        assert "invalid container ID" in complaint(bundle.call(verb, "-b", str(bundle.path), name))
    for verb in ("state", "start", "kill", "delete"):
        assert "invalid container ID" in complaint(bundle.call(verb, name))
    assert bundle.call("delete", "--force", name).code == 1


def test_valid_ids_are_accepted(bundle: Bundle) -> None:
    for name in ("a", "A.b_c+d-e", "0", "x" * 200):
        bundle.id = name
        bundle.run("id").expect()


def test_delete_refuses_a_running_container(live: Bundle) -> None:
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    assert "is running; use --force" in complaint(live.call("delete", live.id))
    pid = live.pid()
    live.call("delete", "--force", live.id).expect()
    assert_gone({pid})
    assert live.containers() == []


def test_delete_removes_a_created_container(live: Bundle) -> None:
    """As runc and crun: nothing of it has run yet."""
    live.create("sleep", "60")
    pid = live.pid()
    live.call("delete", live.id).expect()
    assert_gone({pid})
    assert live.containers() == []


def test_kill_of_a_stopped_container_is_an_error(live: Bundle) -> None:
    live.create("exit", "0")
    live.call("start", live.id).expect()
    live.wait_status("stopped")
    assert live.pid() == 0
    done = live.call("kill", live.id, "KILL")
    assert complaint(done) == f"cannot signal {live.id}: container not running"
    live.call("delete", live.id).expect()


@pytest.mark.parametrize("name", ["NONE", "-1", "99", "SIG", "", "9x"])
def test_unknown_signals_are_refused(live: Bundle, name: str) -> None:
    live.create("sleep", "60")
    assert live.call("kill", live.id, name).code != 0
    assert live.status() == "created"


def test_concurrent_creates_of_one_id_succeed_once(live: Bundle) -> None:
    live.write("sleep", "60")
    command = live.command("create", "-b", str(live.path), live.id)
    null = subprocess.DEVNULL
    started = [
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env=ENVIRONMENT)
        for _ in range(4)
    ]
    assert sorted(process.wait(30) for process in started) == [0, 1, 1, 1]
    assert live.status() == "created"


def test_second_create_leaves_the_first_alone(live: Bundle) -> None:
    live.create("args", "first")
    live.write("args", "second")
    done = live.call("create", "-b", str(live.path), live.id)
    assert complaint(done) == f"container {live.id} already exists"
    live.call("start", live.id).expect()
    assert live.wait_output("first") == "arg 0 first\n"


def test_failed_create_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    before = children()
    bundle.write("sleep", "60")
    arguments = ["-b", str(bundle.path), bundle.id]
    done = bundle.call("create", "--pid-file", "/no/such/dir/pid", *arguments)
    assert "--pid-file /no/such/dir/pid: No such file" in complaint(done)
    assert bundle.containers() == []
    assert_gone(children() - before)
    bundle.spec["root"]["path"] = "missing"
    bundle.write()
    assert "root file system" in complaint(bundle.call("create", *arguments))
    assert bundle.containers() == []


def test_exec_with_a_bad_pid_file_starts_nothing(live: Bundle, tmp_path: Path) -> None:
    """crun and runc write it when the process runs already."""
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    for path, why in ((tmp_path / "none" / "pid", "No such file"), (tmp_path, "Is a directory")):
        words = ["-d", "--pid-file", str(path), live.id, "/probe", "sleep", "60"]
        assert f"--pid-file {path}: {why}" in complaint(live.call("exec", *words))
    assert live.call("exec", live.id, "/probe", "pids").expect().facts()["pids"] == "1 2"


def test_run_dies_with_its_container(bundle: Bundle) -> None:
    process = start_run(bundle, "args", "up", ",", "sleep", "60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"arg 0 up\n"
    os.kill(bundle.pid(), signal.SIGKILL)
    assert process.wait(10) == 137
    assert bundle.containers() == []
    process.communicate()


def test_container_dies_with_its_run(bundle: Bundle) -> None:
    """SIGKILL cannot be handled: the kernel ends init (PR_SET_PDEATHSIG)."""
    process = start_run(bundle, "ignore-term")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pid = bundle.pid()
    process.kill()
    process.communicate()
    assert_gone({pid})
    assert bundle.status() == "stopped"
    bundle.call("delete", bundle.id).expect()
    assert bundle.containers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_run_forwards_signals(bundle: Bundle, number: int) -> None:
    process = start_run(bundle, "wait-signal", str(int(number)))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.stdout.read() == f"signal {number}\n".encode()
    assert process.wait(10) == 0
    process.communicate()


def test_create_killed_at_any_moment_can_be_deleted(bundle: Bundle) -> None:
    """Whenever `create` is killed, one `delete --force` clears what it has left."""
    before = children()
    states: set[str] = set()
    first, delay = bundle.id, 0.0  # milliseconds; how long a `create` takes is the machine's affair
    while "created" not in states and delay < 10_000:
        delay = delay * 1.2 + 4
        bundle.id = f"{first}-{delay:.0f}"
        bundle.write("sleep", "60")
        process = subprocess.Popen(
            bundle.command("create", "-b", str(bundle.path), bundle.id),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        time.sleep(delay / 1000)
        process.kill()
        process.wait()
        done = bundle.call("state", bundle.id)
        states.add(json.loads(done.out)["status"] if done.code == 0 else "none")
        bundle.call("delete", "--force", bundle.id).expect()
    assert_gone(children() - before)
    assert bundle.containers() == []
    assert "none" in states and len(states) > 1, states
    assert control_groups(f"{first}-*") == []


# Stop the parent at a point of its story, to kill it there.
_STOPPED = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from rootless.linux import idmap
from rootless.runtime import sync
from rootless.runtime.commands import main as cli
from rootless.runtime.host import state
def stop(*_):
    os.kill(os.getpid(), signal.SIGSTOP)
point = sys.argv.pop(1)
if point == "maps":
    idmap.write_maps = stop
elif point == "go":
    expect = sync.expect_ready
    sync.expect_ready = lambda *words: stop() or expect(*words)
else:
    state.Record.mark_created = stop
sys.exit(cli.main())
"""


@pytest.mark.parametrize("point", ["maps", "go", "ready"])
def test_create_killed_between_steps_leaves_no_process(bundle: Bundle, point: str) -> None:
    """Before the maps init waits for GO, then it finds nobody to report to, then it waits."""
    before = children()
    bundle.write("sleep", "60")
    command = bundle.command("create", "-b", str(bundle.path), bundle.id)
    at = command.index("--root")
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", _STOPPED, root, point, *command[at:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    os.waitpid(process.pid, os.WUNTRACED)
    if point == "maps":
        assert bundle.containers() == [bundle.id]
    else:
        assert bundle.pid() in children()
        assert bundle.status() == "creating"
    process.kill()
    process.wait()
    if point == "maps":
        assert_gone(children() - before)
    bundle.call("delete", "--force", bundle.id).expect()
    assert_gone(children() - before)
    assert bundle.containers() == []


def test_program_missing_at_start_is_reported(live: Bundle) -> None:
    """`create` has seen it, and is gone when execve fails: `start` says so."""
    live.process["args"] = ["/no\x1bthing"]
    shutil.copy(live.rootfs / "probe", live.rootfs / "no\x1bthing")
    live.create()
    (live.rootfs / "no\x1bthing").unlink()
    done = live.call("start", live.id)
    assert done.code == 127
    assert complaint(done) == (
        "cannot execute /no\\x1bthing: no such file or directory in the container"
    )
    live.wait_status("stopped")
    assert live.output() == ""


def test_program_missing_at_create_is_reported(live: Bundle) -> None:
    live.write()
    for words, code, says in (
        (["/nothing"], 127, "no such file or directory"),
        (["nothing"], 127, "executable file not found in $PATH"),
        (["/proc"], 126, "permission denied"),
    ):
        live.process["args"] = words
        live.write()
        done = live.call("create", "-b", str(live.path), live.id)
        assert done.code == code
        assert says in complaint(done)
        assert live.containers() == [".seccomp"] or live.containers() == []


def test_program_missing_without_a_pid_namespace_is_reported(live: Bundle) -> None:
    """There SIGPIPE would end init before it has said a word."""
    live.remove_namespace("pid")
    live.spec["mounts"][0] = {
        "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]
    }  # fmt: skip
    live.process["args"] = ["/program"]
    shutil.copy(live.rootfs / "probe", live.rootfs / "program")
    live.create()
    (live.rootfs / "program").unlink()
    assert "no such file or directory in" in complaint(live.call("start", live.id))
    live.wait_status("stopped")


def decoy() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_recycled_pid_is_neither_shown_nor_killed(live: Bundle) -> None:
    """Another process with the pid of the record is neither shown, nor killed (class 39)."""
    live.create("exit", "0")
    live.call("start", live.id).expect()
    live.wait_status("stopped")
    path = live.state / live.id / "state.json"
    facts = json.loads(path.read_text())
    with decoy() as other:
        try:
            for change in ({"pid": other.pid}, {"pid": other.pid, "boot": "another"}):
                path.write_text(json.dumps(facts | change))
                assert live.status() == "stopped"
                assert "container not running" in complaint(live.call("kill", live.id, "KILL"))
                assert other.poll() is None
            live.call("delete", "--force", live.id).expect()
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "[" * 100_000, "\udcff"])
def test_damaged_state_file_is_reported(live: Bundle, text: str) -> None:
    live.create("exit", "0")
    live.call("start", live.id).expect()
    live.wait_status("stopped")
    path = live.state / live.id / "state.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "its state file is damaged" in complaint(live.call("state", live.id))
    assert live.call("list", "-q").expect().out == ""
    live.call("delete", "--force", live.id).expect()
    assert live.containers() == []
    for group in control_groups(live.id):  # where it was, nobody could know any more
        group.rmdir()


def test_list_shows_containers(live: Bundle) -> None:
    live.create("sleep", "60")
    (live.state / "file").write_text("not a container")
    table = live.call("list").expect().lines()
    assert table[0].split() == "ID PID STATUS BUNDLE CREATED OWNER".split()
    (only,) = json.loads(live.call("list", "--format", "json").expect().out)
    made = only["created"]
    assert table[1].split()[:5] == [live.id, str(live.pid()), "created", str(live.path), made]
    assert only["id"] == live.id
    assert abs(datetime.fromisoformat(made[:19] + "+00:00").timestamp() - time.time()) < 60


@pytest.mark.parametrize("mode", [0o775, 0o770, 0o707])
def test_state_directory_open_to_others_is_refused(bundle: Bundle, mode: int) -> None:
    bundle.state.mkdir()
    bundle.state.chmod(mode)
    assert "is open to other users" in bundle.fails("id")


@pytest.mark.needs("ordinary user")
def test_foreign_state_directory_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Class 42: whoever made it first could read and swap what we keep there."""
    bundle.state = Path("/usr")
    bundle.write("id")
    done = bundle.call("run", "-b", str(bundle.path), bundle.id)
    assert "belongs to uid 0, not to you" in complaint(done)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    bundle.state = link
    done = bundle.call("run", "-b", str(bundle.path), bundle.id)
    assert "is not a directory" in complaint(done)


def test_state_is_private(live: Bundle) -> None:
    live.create("sleep", "60")
    for path in (live.state, live.state / live.id):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (live.state / live.id).iterdir():
        assert path.stat().st_mode & 0o077 in (0, 0o044), path


def test_preserve_fds_passes_descriptors(bundle: Bundle) -> None:
    reader, writer = os.pipe()
    try:
        fds = [fd for fd in (reader, writer) if fd >= 3]
        command = ["bash", "-c", 'exec 3</dev/null 4<&3 5<&3; exec "$@"', "bash"]
        bundle.write("fds")
        command += bundle.command("run", "--preserve-fds", "2", "-b", str(bundle.path), bundle.id)
        out = subprocess.run(
            command, capture_output=True, text=True, pass_fds=fds, env=ENVIRONMENT, check=True
        ).stdout
    finally:
        os.close(reader)
        os.close(writer)
    assert [line.split()[1] for line in out.splitlines()] == ["0", "1", "2", "3", "4"]


def test_closed_preserved_descriptors_stay_closed(bundle: Bundle) -> None:
    """None of ours that gets such a number goes to the application."""
    numbers = bundle.run("fds", options=["--preserve-fds", "99"]).expect().out.splitlines()
    assert [line.split()[1] for line in numbers] == ["0", "1", "2"]
    assert "not a number" in bundle.fails("fds", options=["--preserve-fds", "x"])


def test_init_holds_no_pipe_of_the_caller(live: Bundle) -> None:
    """The caller's other descriptors are closed by the time that `create` returns."""
    reader, writer = os.pipe()
    live.create("sleep", "60", pass_fds=(writer,))
    os.close(writer)
    assert select.select([reader], [], [], 5)[0] and os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.needs("delegated cgroup")
@pytest.mark.parametrize("verb", ["create", "run"])
def test_interrupt_after_cgroup_creation_removes_the_group(bundle: Bundle, verb: str) -> None:
    bundle.write("id")
    words = bundle.command(verb, "-b", str(bundle.path), bundle.id)
    code = words.index("-c") + 1
    words[code] = KEY_AT_CGROUP + words[code]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"made")
    assert control_groups(bundle.id) == []
    assert bundle.containers() == []
