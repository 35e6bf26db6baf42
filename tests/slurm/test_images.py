"""`srun rless run`: containers as the programs of a job, and ranks that share one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.ranks.test_join import RING
from tests.lib.product import Product, own_rless, rless, shared_product
from tests.slurm.conftest import processes_with, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lib.product import Result
    from tests.slurm.conftest import Slurm

__all__ = ["own_rless", "rless", "shared_product"]
pytestmark = pytest.mark.needs("slurm", "user namespaces")
fuse = pytest.mark.needs("fuse", "squashfuse", "mksquashfs")


@pytest.fixture(scope="module")
def image(shared_product: Product) -> Iterator[Path]:
    """Make one flattened image."""
    path = shared_product.base / "job.sqsh"
    shared_product("flatten", "-f", shared_product.image, str(path)).expect()
    yield path
    path.unlink()


def srun(slurm: Slurm, rless: Product, flags: str, *words: str, **more: Any) -> Result:
    """Run `srun FLAGS rless run WORDS...`."""
    command = ["srun", "-Q", f"--job-name={slurm.name()}", *flags.split()]
    environment = {**rless.environment(), **more.pop("env", {})}
    return slurm.call(*command, *rless.argv("run", *words), env=environment, **more)


@fuse
def test_image_runs_in_a_job(slurm: Slurm, rless: Product, image: Path) -> None:
    # Nobody ends before all have begun, or the number of a namespace could be another's.
    script = "echo $SLURM_PROCID of $SLURM_NTASKS in $(readlink /proc/self/ns/mnt); sleep 2"
    done = srun(slurm, rless, "-n4", "--hpc", str(image), "--", "sh", "-c", script).expect()
    lines = sorted(done.out.splitlines())
    assert [line.partition(" in ")[0] for line in lines] == [f"{n} of 4" for n in range(4)]
    assert len({line.partition(" in ")[2] for line in lines}) == 4


@fuse
@pytest.mark.parametrize("end", ["\n", "\0"], ids=["newline", "null"])
def test_variables_of_a_file_are_set(
    slurm: Slurm, rless: Product, image: Path, tmp_path: Path, end: str
) -> None:
    # What %e is in oci.conf, with CreateEnvFile=newline or null.
    file = tmp_path / "environment"
    file.write_text(f"ONE=from file{end}TWO=a=b{end}")
    words = ("--hpc", "--env-host=false", "--env-file", str(file), str(image), "--", "env")
    done = srun(slurm, rless, "-n1", *words).expect()
    assert {"ONE=from file", "TWO=a=b"} <= set(done.out.splitlines())
    assert any(line.startswith("SLURM_JOB_ID=") for line in done.out.splitlines())


@fuse
def test_exit_codes_and_input_are_passed_on(slurm: Slurm, rless: Product, image: Path) -> None:
    for flags in ((), ("--join",)):
        words = ("--hpc", *flags, str(image), "sh", "-c", "cat; exit 6")
        done = srun(slurm, rless, "-n1", *words, input=b"in\n")
        assert (done.code, done.out) == (6, "in\n")


@fuse
def test_ranks_share_one_mount(slurm: Slurm, rless: Product, image: Path, tmp_path: Path) -> None:
    # Each writes its name and waits for all.
    script = (
        "touch /seen.$SLURM_PROCID; until [ $(ls /seen.* | wc -l) = 8 ]; do sleep 0.05; done;"
        " echo $(readlink /proc/self/ns/mnt) $(ls /dev/shm >/dev/null && echo shm);"
        f" until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    )
    name = slurm.name()
    output = tmp_path / "output"
    command = ["srun", f"--job-name={name}", "-n8"]
    words = rless.argv("run", "--hpc", "--join", str(image), "sh", "-c", script)
    process = slurm.start(*command, *words, output=output, env=rless.environment())
    wait_for(lambda: output.read_text().count("shm") == 8)
    assert len(set(output.read_text().splitlines())) == 1
    # One program serves the file, a child of the one monitor.
    assert len(rless.containers()) == 1
    monitor = json.loads((rless.live / rless.containers()[0]).read_text())["monitor"][0]
    children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    assert sorted(map(_name, children)) == ["rless-init", "squashfuse_ll"]
    job = slurm.call("squeue", "-h", "-o", "%i", f"--name={name}").out.strip()
    listed = rless("ps", "--format", "{{.Names}}").lines()
    assert listed == [f"join-{job}.0"]
    (tmp_path / "go").touch()
    assert process.wait(20) == 0
    wait_for(lambda: not rless.containers())
    wait_for(lambda: not any(map(_name, children)))


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_scancel_reaches_every_rank(slurm: Slurm, rless: Product, tmp_path: Path) -> None:
    name = slurm.name()
    output = tmp_path / "output"
    script = "trap 'echo handled; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    words = rless.argv("run", "--hpc", "--join", rless.image, "sh", "-c", script)
    command = ["srun", f"--job-name={name}", "-n4"]
    process = slurm.start(*command, *words, output=output, env=rless.environment())
    wait_for(lambda: output.read_text().count("ready") == 4)
    slurm.call("scancel", f"--name={name}").expect()
    assert process.wait(30) == 3
    assert output.read_text().count("handled") == 4
    slurm.await_idle()
    rless("ps").expect()  # Slurm may have killed the monitor, too
    wait_for(lambda: not rless.containers())
    wait_for(lambda: not processes_with(name))


def test_killed_rank_leaves_nothing(slurm: Slurm, rless: Product) -> None:
    script = "[ $SLURM_PROCID != 1 ] || kill -9 $$; sleep 0.5"
    done = srun(slurm, rless, "-n4", "--hpc", "--join", rless.image, "sh", "-c", script)
    assert done.code == 137
    rless("ps").expect()
    wait_for(lambda: not rless.containers())


_PMI2 = r"""
import os
fd = int(os.environ["PMI_FD"])
os.write(fd, b"cmd=init pmi_version=2 pmi_subversion=0\n")
print(os.environ["PMI_RANK"], os.read(fd, 200).decode().split()[0])
"""


@pytest.mark.parametrize("flags", [(), ("--join",)], ids=["alone", "joined"])
def test_pmi2_descriptor_is_passed(slurm: Slurm, rless: Product, flags: tuple[str, ...]) -> None:
    words = ("--hpc", *flags, "host:", "python3", "-c", _PMI2)
    done = srun(slurm, rless, "--mpi=pmi2 -n2", *words).expect()
    assert sorted(done.out.splitlines()) == [f"{n} cmd=response_to_init" for n in range(2)]


@pytest.mark.needs("mpicc")
def test_open_mpi_runs_by_pmix(slurm: Slurm, rless: Product, tmp_path: Path) -> None:
    if "pmix" not in slurm.call("srun", "--mpi=list").out:
        pytest.skip("needs a Slurm with PMIx")
    (tmp_path / "ring.c").write_text(RING)
    program = rless.home / "ring"
    subprocess.run(["mpicc", "-o", str(program), str(tmp_path / "ring.c")], check=True)
    done = srun(slurm, rless, "--mpi=pmix -n4", "--hpc", "--join", "host:", str(program))
    expected = [f"rank {n} of 4: sum 6, got {(n + 3) % 4}" for n in range(4)]
    assert sorted(done.expect().out.splitlines()) == expected
