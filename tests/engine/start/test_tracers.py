"""Hostile containers against what the monitor has done for it: health checks, restarts.

Classes 24, 35 and 45: with CAP_SYS_PTRACE, in the user namespace of all that the monitor starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rootless.engine.monitor import execute
from tests.lib.product import Product, python_launcher, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

# What a process with CAP_SYS_PTRACE sees of the processes that run a program of the host.
_SPY = """
while :; do for p in /proc/[0-9]*; do
    exe=$(readlink $p/exe) && case $exe in *python*)
        echo saw; grep -e CapPrm -e CapEff -e Seccomp: $p/status; ls -l $p/fd ;;
    esac
done 2>/dev/null; done
"""


def watched(rless: Product, spy: subprocess.Popen[bytes], seconds: float) -> list[str]:
    """Return what the spy says until so long after its first sight of a check."""
    assert spy.stdout is not None
    assert spy.stdout.readline() == b"saw\n"
    time.sleep(seconds)
    wait_for(lambda: "(healthy)" in rless("ps").out, "healthy", 60)
    rless("rm", "-f", "spied").expect()
    return spy.communicate(timeout=60)[0].decode().splitlines()


@pytest.mark.parametrize("user", ["0", "1000"])
def test_health_check_runs_in_the_user_namespace_of_the_container(
    rless: Product, user: str
) -> None:
    """Class 35: the monitor runs it in the container's own user namespace."""
    flags = ["--cap-add=SYS_PTRACE", "--health-cmd=true", "--health-interval=100ms", "-u", user]
    done = rless("run", "-d", "--network=none", "--name=spied", *flags, rless.image, "sleep", "600")
    done.expect()
    spy = rless.start("exec", "-u", "0", "spied", "sh", "-c", _SPY, bufsize=0)
    own = rless("exec", "-u", "0", "spied", "grep", "CapPrm", "/proc/self/status").expect().out
    seen = watched(rless, spy, 2)
    limit = int(own.split()[1], 16)
    sets = [int(line.split()[1], 16) for line in seen if line.startswith("Cap")]
    assert sets
    assert not [mask for mask in sets if mask & ~limit]
    assert {line for line in seen if line.startswith("Seccomp:")} == {"Seccomp:\t2"}
    assert not [line for line in seen if "->" in line and "rless-product" in line]


def own_python(directory: Path) -> Path:
    """Make a Python that its user may write."""
    own = directory / "own" / "bin"
    own.mkdir(parents=True)
    shutil.copy2(os.path.realpath(sys.executable), own / "python3")
    base = Path(os.path.realpath(sys.executable)).parent
    (directory / "own" / "pyvenv.cfg").write_text(f"home = {base}\n")
    return own / "python3"


# Keep what a process of the host was executed from, and open it for writing once that has ended.
_OVERWRITE = """
while :; do for p in /proc/[0-9]*; do
    exe=$(readlink $p/exe) && case $exe in */busybox) ;; *)
        exec 9< $p/exe && echo saw && sleep 0.5 && { : >> /proc/self/fd/9; } && echo wrote ;;
    esac
done 2>/dev/null; done
"""


def test_python_of_a_health_check_cannot_be_written(rless: Product, tmp_path: Path) -> None:
    """CVE-2019-5736, where it is a file of the user's own: by CAP_SYS_PTRACE its name is seen."""
    python = own_python(tmp_path)
    flags = ["--cap-add=SYS_PTRACE", "--health-cmd=true", "--health-interval=100ms"]
    words = ["run", "-d", "--network=none", "--name=spied", *flags, rless.image, "sleep", "600"]
    start = [str(python), *python_launcher()[1:], *words]
    subprocess.run(start, env=rless.environment(), check=True, timeout=30, capture_output=True)
    spy = rless.start("exec", "spied", "sh", "-c", _OVERWRITE, bufsize=0)
    seen = watched(rless, spy, 3)
    assert "wrote" not in seen


def test_restart_works_with_a_python_owned_by_the_user(rless: Product, tmp_path: Path) -> None:
    python = own_python(tmp_path)
    words = ["run", "-d", "--network=none", "--name=again", "--restart=on-failure:2", rless.image,
             "sh", "-c", "echo run; exit 3"]  # fmt: skip
    start = [str(python), *python_launcher()[1:], *words]
    subprocess.run(start, env=rless.environment(), check=True, timeout=30, capture_output=True)
    wait_for(lambda: "Exited (3)" in rless("ps", "-a").out, "the end", 20)
    assert rless("logs", "again").expect().out == "run\n" * 3
    rless("rm", "again").expect()


_SPY_ROOT = """
while :; do for p in /proc/[0-9]*; do
    test -e $p/root/SECRET && cat $p/root/SECRET
done 2>/dev/null; done
"""


def test_restarting_init_is_hidden_from_a_tracer(rless: Product, tmp_path: Path) -> None:
    """The init of a restart begins in the host's mount namespace; it must not be in reach there."""
    secret = tmp_path / "secret"
    secret.write_text("secret of the host\n")
    spy = _SPY_ROOT.replace("/SECRET", str(secret))
    rless.detach("tracer", "--cap-add=SYS_PTRACE", "sh", "-c", spy)
    words = ["run", "-d", "--network=none", "--name=again", "--pid=container:tracer",
             "--restart=on-failure:4", rless.image, "sh", "-c", "exit 3"]  # fmt: skip
    rless(*words).expect()
    error = ("inspect", "again", "--format", "{{.State.Error}}")
    wait_for(lambda: "SYS_PTRACE" in rless(*error).expect().out, "the refusal of a restart", 60)
    out = rless("logs", "tracer").expect().out
    rless("rm", "-f", "again", "tracer").expect()
    assert not out


def test_restart_beside_other_processes_works(rless: Product) -> None:
    rless.detach("beside", "", "sleep", "600")
    words = ["run", "-d", "--network=none", "--name=again", "--pid=container:beside",
             "--restart=on-failure:2", rless.image, "sh", "-c", "echo run; exit 3"]  # fmt: skip
    rless(*words).expect()
    wait_for(lambda: rless("logs", "again").out == "run\n" * 3, "restarts", 20)
    rless("rm", "-f", "again", "beside").expect()


def test_python_of_the_monitor_is_isolated() -> None:
    """Class 45: neither the current directory nor the environment gives it modules."""
    assert execute.interpreter()[1:3] == ["-I", "-S"]
