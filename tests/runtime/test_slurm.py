"""What Slurm's native OCI support calls, word for word, and what it counts on.

slurmstepd runs each command by `/bin/sh -c`, in the bundle, with the environment of slurmd: no
home of the user's, no runtime directory, no bus. `run` is in the foreground of the step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lib.bundle import RLESS, Bundle
from tests.lib.product import Result
from tests.runtime.test_lifecycle import assert_gone, children

pytestmark = pytest.mark.needs("compiler", "user namespaces")

ID = "node1.user.3.0.0"
# Of slurmd: root's.
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "SLURM_CONF": "/x/slurm.conf",
}


class Step:
    """A step of a job: the bundle as Slurm makes it, and the commands of oci.conf."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        bundle.id = ID
        self.root = bundle.base / "oci-state"
        self.runtime = bundle.base / "rless-oci"
        words = " ".join(f"'{word}'" for word in RLESS[:-1])
        self.runtime.write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n')
        self.runtime.chmod(0o755)
        # As Slurm rewrites it: the root absolute, the network the host's.
        bundle.spec["root"]["path"] = str(bundle.rootfs)
        bundle.remove_namespace("network")
        bundle.spec["mounts"][-1] = {
            "destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]
        }  # fmt: skip

    def line(self, pattern: str) -> list[str]:
        """Return how Slurm runs a pattern of oci.conf."""
        pattern = pattern.replace("RT", str(self.runtime)).replace("%n", ID)
        pattern = pattern.replace("%r", f"--root={self.root}")
        return ["/bin/sh", "-c", pattern.replace("%b", str(self.bundle.path))]

    def call(self, pattern: str) -> Result:
        """Run a command as Slurm runs all but `run`: one pipe for output and errors."""
        done = subprocess.run(
            self.line(pattern),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.bundle.path,
            env=ENVIRONMENT,
            timeout=30,
        )
        return Result([pattern], done.returncode, done.stdout, b"")

    def start(
        self, *words: str, pattern: str = "exec RT %r run --bundle %b %n"
    ) -> subprocess.Popen[bytes]:
        """Run the application in the foreground."""
        self.bundle.write(*words)
        return subprocess.Popen(
            self.line(pattern),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.bundle.path,
            env=ENVIRONMENT,
        )

    def state(self) -> dict[str, object]:
        """Return the answer of RunTimeQuery: nothing but JSON."""
        answer: dict[str, object] = json.loads(self.call("RT %r state %n").expect().out)
        return answer


@pytest.fixture
def step(bundle: Bundle) -> Iterator[Step]:
    step = Step(bundle)
    yield step
    step.call("RT %r delete --force %n")


@pytest.mark.parametrize(
    "pattern",
    [
        "exec RT %r run --bundle %b %n",
        "exec RT %r run %n -b %b",
        "exec RT --rootless=true %r run -b=%b %n",
        "exec RT --rootless auto --cgroup-manager=disabled %r run %n --bundle=%b",
    ],
)
def test_run_as_slurm_calls_it(step: Step, pattern: str) -> None:
    with step.start("args", "hello", ",", "exit", "5", pattern=pattern) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (5, b"arg 0 hello\n", b"")
    assert step.call("RT %r state %n").code != 0


def test_unknown_id_prints_no_json(step: Step) -> None:
    """Older ones read what is printed as JSON, whatever the exit code: so it must not be any."""
    command = step.line("RT %r state %n")
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, cwd=step.bundle.path)
    assert done.returncode != 0
    assert done.stdout == b""
    step.call("RT %r delete --force %n").expect()


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stdout is not None
    said = b""
    while text not in said:
        chunk = os.read(process.stdout.fileno(), 4096)
        assert chunk, said
        said += chunk
    return said


def test_scancel_reaches_the_application(step: Step) -> None:
    with step.start("emit", "3", ",", "wait-signal", "15") as process:
        wait_for(process, b"ready")
        assert step.state()["status"] == "running"
        process.send_signal(signal.SIGUSR1)
        wait_for(process, b"signal 10")
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert err == b""
    assert process.returncode == 0, out


def test_exit_code_of_a_signal_handler_is_passed_on(step: Step) -> None:
    with step.start("trap-term", "3") as process:
        wait_for(process, b"")
        deadline = time.monotonic() + 30
        while step.call("RT %r state %n").code:
            assert time.monotonic() < deadline
        time.sleep(0.2)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 3


def test_kill_leaves_no_orphan(step: Step) -> None:
    """At the time limit: then the state is still known, and `delete --force` clears it."""
    before = children()
    with step.start("wait-signal", "99") as process:
        wait_for(process, b"ready")
        process.kill()
        process.communicate(timeout=30)
    assert_gone(children() - before)
    assert step.state()["status"] == "stopped"
    step.call("RT %r delete --force %n").expect()
    assert step.call("RT %r state %n").code != 0


def test_example_verbs_work(step: Step) -> None:
    with step.start("wait-signal", "99") as process:
        wait_for(process, b"ready")
        step.call("RT %r kill %n SIGUSR2").expect()
        wait_for(process, b"signal 12")
        step.call("RT --rootless=true %r kill -a %n SIGKILL").expect()
        process.communicate(timeout=30)
    assert process.returncode == 137


def test_create_and_start_as_slurm_calls_them(step: Step) -> None:
    step.bundle.write("sleep", "60")
    null = subprocess.DEVNULL
    line = step.line("RT %r create --bundle %b %n")
    subprocess.run(line, env=ENVIRONMENT, stdin=null, stdout=null, stderr=null, check=True)
    assert step.state()["status"] == "created"
    assert step.call("RT %r start %n").expect().out == ""
    answer = step.state()
    assert answer["status"] == "running"
    assert set(answer) >= {"ociVersion", "id", "status", "pid", "bundle"}
    step.call("RT %r delete --force %n").expect()


def test_last_duplicate_variable_wins(step: Step) -> None:
    """Slurm appends the environment of the job to that of the config."""
    step.bundle.process["env"] = ["PATH=/bin", "TERM=xterm", "PATH=/", "SLURM_JOB_ID=3", "TERM=x"]
    step.bundle.process["args"] = ["probe", "env"]
    with step.start() as process:
        out, _ = process.communicate(timeout=30)
    assert {b"PATH=/", b"TERM=x", b"SLURM_JOB_ID=3"} <= set(out.splitlines())


def test_batch_script_and_streams_are_bound(step: Step) -> None:
    """The script and its streams are bound, as files, where the image has nothing."""
    directory = step.bundle.base / "spool"
    directory.mkdir()
    (directory / "script").write_text("#!/probe args\n")
    (directory / "script").chmod(0o755)
    (directory / "stdout").touch()
    for name in ("script", "stdout"):
        option = "ro" if name == "script" else "rw"
        step.bundle.mount(f"/tmp/slurm/{name}", "none", directory / name, "bind", option)
    step.bundle.process["args"] = ["/tmp/slurm/script", "x"]
    with step.start() as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert out.splitlines()[-1] == b"arg 1 x"


def test_many_containers_run_at_once(step: Step) -> None:
    """Steps that overlap: one state directory, an id each."""
    step.bundle.write("args", "x")
    running = []
    for number in range(8):
        pattern = f"exec RT %r run --bundle %b step{number}"
        running.append(
            subprocess.Popen(
                step.line(pattern),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT,
            )
        )
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"arg 0 x\n")
    assert [name for name in os.listdir(step.root) if name != ".seccomp"] == []
