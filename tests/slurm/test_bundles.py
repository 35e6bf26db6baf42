"""`srun|sbatch --container=BUNDLE`: Slurm runs rless-oci by what `rless slurm-config` printed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lib.compiled import ROOT
from tests.slurm.conftest import processes_with, wait_for

if TYPE_CHECKING:
    from tests.slurm.conftest import Bundle, Slurm

pytestmark = pytest.mark.needs("slurm", "busybox")


def test_tested_config_is_what_slurm_config_prints(slurm: Slurm) -> None:
    printed = slurm.call("rless", "slurm-config", f"--bin={ROOT}/.venv/bin").expect()
    assert Path(slurm.directory, "oci.conf").read_text() == printed.out


def test_streams_and_exit_code(slurm: Slurm, bundle: Bundle) -> None:
    script = "cat; echo to-err >&2; exit 7"
    done = slurm.call("srun", "-Q", f"--container={bundle.path}", "sh", "-c", script, input=b"in\n")
    assert (done.code, done.out) == (7, "in\n")
    assert "to-err" in done.err


def test_killed_and_missing_programs_are_reported(slurm: Slurm, bundle: Bundle) -> None:
    run = ("srun", "-Q", f"--container={bundle.path}")
    assert slurm.call(*run, "sh", "-c", "probe kill-self 9; exit $?").code == 137
    done = slurm.call(*run, "no-such-program")
    assert done.code == 127
    assert "cannot execute no-such-program" in done.err


def test_arguments_are_passed_as_they_are(slurm: Slurm, bundle: Bundle) -> None:
    words = ["a  b", "$HOME", "it's", '"', "*", "back\\slash", "", "ünï"]
    done = slurm.call("srun", "-Q", f"--container={bundle.path}", "probe", "args", *words)
    assert done.expect().out.splitlines()[-len(words) :] == [
        f"arg {index} {word}" for index, word in enumerate(words)
    ]


def test_last_duplicate_variable_wins(slurm: Slurm, bundle: Bundle) -> None:
    bundle.spec["process"]["env"] += ["ONLY=config", "BOTH=config"]
    bundle.write()
    done = slurm.call(
        "srun", "-Q", f"--container={bundle.path}", "env", env={"BOTH": "job", "JOB": "x"}
    ).expect()
    lines = done.out.splitlines()
    assert {"ONLY=config", "BOTH=job", "JOB=x"} <= set(lines)
    assert [line for line in lines if line.startswith("PATH=")] == [
        f"PATH={slurm.environment['PATH']}"
    ]
    assert "BOTH=config" not in lines


def test_environment_of_the_daemon_is_not_used(slurm: Slurm, bundle: Bundle) -> None:
    # slurmd starts the runtime with root's HOME, and without a session.
    done = slurm.call("srun", "-Q", f"--container={bundle.path}", "env").expect()
    assert f"HOME={slurm.environment['HOME']}" in done.out.splitlines()


def test_steps_of_a_job_can_overlap(slurm: Slurm, bundle: Bundle, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    bundle.bind(shared, "/tmp")
    meet = "touch /tmp/$0; until [ -e /tmp/$1 ]; do sleep 0.02; done; echo $0 met $1"
    step = f"srun -Q -n1 --overlap --container={bundle.path} sh -c '{meet}'"
    done = slurm.call("salloc", "-Q", "-n2", "sh", "-c", f"{step} a b & {step} b a; wait")
    assert sorted(done.expect().out.splitlines()) == ["a met b", "b met a"]


def test_batch_script_runs_in_the_container(slurm: Slurm, bundle: Bundle, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text('#!/bin/sh\necho "script in $(ls /)"\nls /no-such-file\nexit 4\n')
    output = tmp_path / "output"
    done = slurm.call(
        "sbatch",
        "--wait",
        "--parsable",
        f"--job-name={slurm.name()}",
        f"--container={bundle.path}",
        f"--output={output}",
        str(script),
    )
    text = output.read_text()
    assert "script in bin" in text.replace("\n", " "), text
    assert "/no-such-file" in text
    assert "error:" not in text  # of Slurm, who asks for what has ended
    assert done.code == 4


def test_srun_pty_has_a_terminal(slurm: Slurm, bundle: Bundle) -> None:
    master, slave = os.openpty()
    process = subprocess.Popen(
        ["srun", "-Q", "--pty", f"--container={bundle.path}", "sh", "-c", "test -t 0 && echo yes"],
        env=slurm.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    said = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        said += chunk
        if not chunk:
            break
    os.close(master)
    assert process.wait(20) == 0, said
    assert b"yes" in said


def _until_cancelled(slurm: Slurm, bundle: Bundle, output: Path, trap: str) -> tuple[str, int]:
    """Start a container, cancel it once it runs; return its output and srun's exit code."""
    name = slurm.name()
    script = f"trap '{trap}' TERM; echo ready; while :; do sleep 0.05; done"
    process = slurm.start(
        "srun", f"--job-name={name}", f"--container={bundle.path}", "sh", "-c", script, name,
        output=output,
    )  # fmt: skip
    wait_for(lambda: "ready" in output.read_text())
    assert processes_with(name)
    slurm.call("scancel", f"--name={name}").expect()
    code = process.wait(30)
    slurm.await_idle()
    wait_for(lambda: not processes_with(name))  # nothing is orphaned
    return output.read_text(), code


def test_scancel_passes_on_the_exit_code_of_a_handler(
    slurm: Slurm, bundle: Bundle, tmp_path: Path
) -> None:
    # Slurm signals the runtime, which passes it on, and by the runtime: dash, which handles the
    # second one between two commands of the first, is told to leave that.
    handler = 'trap "" TERM; echo handled; exit 3'
    text, code = _until_cancelled(slurm, bundle, tmp_path / "out", handler)
    assert text.count("handled") == 1
    assert code == 3


def test_scancel_kills_a_stubborn_program(slurm: Slurm, bundle: Bundle, tmp_path: Path) -> None:
    # srun itself does not wait that long.
    text, _ = _until_cancelled(slurm, bundle, tmp_path / "out", "")
    assert "CANCELLED" in text


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_killed_runtime_leaves_nothing(slurm: Slurm, bundle: Bundle, tmp_path: Path) -> None:
    name = slurm.name()
    output = tmp_path / "out"
    script = "echo ready; while :; do sleep 0.05; done"
    process = slurm.start(
        "srun", f"--job-name={name}", f"--container={bundle.path}", "sh", "-c", script, name,
        output=output,
    )  # fmt: skip
    wait_for(lambda: "ready" in output.read_text())
    job = slurm.call("squeue", "-h", "-o", "%i", f"--name={name}").out.strip()
    runtimes = [
        pid for pid in processes_with(f"node.{job}.0.0") if "run\0--bundle" in _command(pid)
    ]
    assert len(runtimes) == 1
    os.kill(runtimes[0], signal.SIGKILL)
    assert process.wait(30) == 137
    slurm.await_idle()
    wait_for(lambda: not processes_with(name))
    # Slurm asks for the state, and for what is stopped says `delete --force`.
    state = ("rless-oci", "state", f"node.{job}.0.0")
    wait_for(lambda: slurm.call(*state, env={"XDG_RUNTIME_DIR": ""}).code == 1)
    assert slurm.call(*state, env={"XDG_RUNTIME_DIR": ""}).out == ""


def test_time_limit_ends_a_container(slurm: Slurm, bundle: Bundle, tmp_path: Path) -> None:
    # Slurm counts in minutes and looks every 30 seconds.
    name = slurm.name()
    output = tmp_path / "out"
    script = "trap 'echo handled; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    process = slurm.start(
        "srun", f"--job-name={name}", "--time=5", f"--container={bundle.path}", "sh", "-c", script,
        output=output,
    )  # fmt: skip
    wait_for(lambda: "ready" in output.read_text())
    job = slurm.call("squeue", "-h", "-o", "%i", f"--name={name}").expect().out.strip()
    # What is past once slurmctld reads it, is refused: on a busy machine `now` always is.
    slurm.call("scontrol", "update", f"jobid={job}", "endtime=now+10").expect()
    process.wait(90)
    slurm.await_idle()
    assert "DUE TO TIME LIMIT" in output.read_text()
    assert "handled" in output.read_text()
    wait_for(lambda: not processes_with(name))


def test_bad_bundle_is_reported_in_one_line(slurm: Slurm, bundle: Bundle) -> None:
    bundle.spec["process"]["cwd"] = 7
    bundle.write()
    done = slurm.call("srun", "-Q", f"--container={bundle.path}", "true")
    assert done.code != 0
    assert "rless-oci: " in done.err
    assert "process.cwd" in done.err
    assert "Traceback" not in done.err
