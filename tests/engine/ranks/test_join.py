"""`run --join`: the ranks of a node share one container (class 49)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.ranks import join
from tests.lib.compiled import static_program
from tests.lib.product import Product, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

# One rank of a shell: its pid, its namespaces, then what its script says.
_WHO = "echo $$ $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user)"


def start(rless: Product, key: str, *command: str, flags: Sequence[str] = (), **more: Any):  # type: ignore[no-untyped-def]
    """Start one rank."""
    words = ("run", "-q", "--network", "none", f"--join={key}", *flags, rless.image, *command)
    return rless.start(*words, **more)


def ready(process: subprocess.Popen[bytes]) -> str:
    """Return the first line that a rank says."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_ranks_share_one_container(rless: Product) -> None:
    ranks = [
        start(rless, "peers", "sh", "-c", f"{_WHO}; read _; exit {n}", flags=["-i"])
        for n in range(6)
    ]
    said = [ready(rank).split() for rank in ranks]
    # The process that was started is the program, and nothing stands in between.
    assert [int(words[0]) for words in said] == [rank.pid for rank in ranks]
    assert len({tuple(words[1:]) for words in said}) == 1
    assert said[0][1] != os.readlink("/proc/self/ns/mnt")
    listed = rless("ps", "--format", "{{.Names}}").lines()
    assert listed == ["join-peers"]
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write(b"\n")
        rank.stdin.close()
    assert [rank.wait(20) for rank in ranks] == list(range(6))


def test_128_ranks_join_at_once(rless: Product) -> None:
    # The last one ends what all wait for: so all are in there at one time.
    reader, writer = os.pipe()
    ranks = [
        start(
            rless, "many", "sh", "-c", f"readlink /proc/self/ns/mnt; read _; exit {n}",
            flags=["-i"], stdin=reader, stderr=None,
        )
        for n in range(128)
    ]  # fmt: skip
    os.close(reader)
    assert len({ready(rank) for rank in ranks}) == 1
    os.close(writer)
    assert [rank.wait(60) for rank in ranks] == list(range(128))


def test_each_rank_has_its_streams_signals_and_environment(rless: Product) -> None:
    script = "trap 'echo got; exit 9' TERM; echo $RANK; cat; while :; do sleep 0.02; done"
    ranks = [
        start(rless, "own", "sh", "-c", script, flags=["-i", "-e", f"RANK={n}", "-w", "/srv"])
        for n in range(2)
    ]
    assert [ready(rank) for rank in ranks] == ["0", "1"]
    for n, rank in enumerate(ranks):
        assert rank.stdin is not None and rank.stdout is not None
        rank.stdin.write(f"in {n}\n".encode())
        rank.stdin.close()
        assert rank.stdout.readline() == f"in {n}\n".encode()
        assert os.readlink(f"/proc/{rank.pid}/cwd").endswith("/srv")
    ranks[0].terminate()
    assert ready(ranks[0]) == "got"
    assert ranks[0].wait(10) == 9
    assert ranks[1].poll() is None
    ranks[1].kill()
    assert ranks[1].wait(10) == -signal.SIGKILL


def test_standard_input_needs_interactive(rless: Product) -> None:
    rank = start(rless, "input", "cat", stdin=subprocess.PIPE)
    assert rank.wait(20) == 0


def test_ranks_share_their_files(rless: Product) -> None:
    one = start(rless, "files", "sh", "-c", "echo shared >/file; echo ready; read _", flags=["-i"])
    assert ready(one) == "ready"
    two = start(rless, "files", "cat", "/file")
    assert ready(two) == "shared"
    assert two.wait(10) == 0
    one.communicate(b"\n")


@pytest.mark.parametrize("killed", [0, 1, 3])
def test_any_rank_can_be_killed(rless: Product, killed: int) -> None:
    ranks = []
    for n in range(4):
        ranks.append(start(rless, "kill", "sh", "-c", f"echo {n}; read _; exit {n}", flags=["-i"]))
        assert ready(ranks[-1]) == str(n)
    ranks[killed].kill()
    ranks[killed].wait(10)
    for n, rank in enumerate(ranks):
        if n != killed:
            assert rank.poll() is None
            rank.communicate(b"\n", timeout=10)
            assert rank.returncode == n


@pytest.mark.parametrize("delay", [0.02, 0.06, 0.1, 0.14, 0.18])
def test_creator_of_the_container_can_be_killed(rless: Product, delay: float) -> None:
    first = start(rless, "creator", "sh", "-c", "read _", flags=["-i"])
    others = [start(rless, "creator", "sh", "-c", f"exit {n}") for n in (3, 4)]
    time.sleep(delay)
    first.kill()
    first.wait(10)
    assert [rank.wait(30) for rank in others] == [3, 4]
    rless("ps").expect()  # its lock goes with the next command


def test_key_can_be_reused_after_the_end(rless: Product) -> None:
    # The container of the last one is often still being cleared.
    for n in range(5):
        assert start(rless, "again", "sh", "-c", f"exit {n}").wait(20) == n


def test_stop_and_rm_end_all_ranks(rless: Product) -> None:
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    ranks = [start(rless, "stop", "sh", "-c", script) for _ in range(3)]
    assert [ready(rank) for rank in ranks] == 3 * ["ready"]
    rless("stop", "join-stop").expect()
    assert [rank.wait(10) for rank in ranks] == 3 * [5]
    ranks = [start(rless, "stop", "sh", "-c", script) for _ in range(2)]
    assert [ready(rank) for rank in ranks] == 2 * ["ready"]
    rless("rm", "-f", "join-stop").expect()
    assert [rank.wait(10) for rank in ranks] == 2 * [-signal.SIGKILL]


def test_processes_left_by_a_rank_end_with_the_last_rank(rless: Product) -> None:
    one = start(rless, "left", "sh", "-c", "echo ready; read _", flags=["-i"])
    assert ready(one) == "ready"
    two = start(rless, "left", "sh", "-c", "setsid sleep 1000 >/dev/null & echo $!; exit 0")
    left = int(ready(two))
    assert two.wait(10) == 0
    os.kill(left, 0)  # it goes on with who is left
    one.communicate(b"\n", timeout=10)
    wait_for(lambda: not _runs(left), "the end of what was left")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_monitor_ends_all_ranks(rless: Product) -> None:
    ranks = [start(rless, "lost", "sh", "-c", "echo ready; sleep 1000") for _ in range(2)]
    assert [ready(rank) for rank in ranks] == 2 * ["ready"]
    entry = json.loads((rless.live / rless.containers()[0]).read_text())
    os.kill(entry["monitor"][0], signal.SIGKILL)
    rless("ps").expect()  # the next command clears
    assert [rank.wait(10) for rank in ranks] == 2 * [-signal.SIGKILL]


def test_container_with_other_options_is_not_joined(rless: Product) -> None:
    one = start(rless, "other", "sh", "-c", "echo ready; read _", flags=["-i"])
    assert ready(one) == "ready"
    done = rless(
        "run", "--network", "none", "--join=other", "--read-only", "--tmpfs", "/x", rless.image
    )
    assert done.code == 125
    assert "differs in mounts, read_only" in done.one_line_error()
    one.communicate(b"\n", timeout=10)


def test_unrelated_container_of_that_name_is_not_joined(rless: Product) -> None:
    rless.detach("join-mine", "--rm", "sleep", "1000")
    done = rless("run", "--network", "none", "--join=mine", rless.image, "true")
    assert done.code == 125
    assert "container join-mine was not made by --join" in done.one_line_error()
    rless("rm", "-f", "join-mine").expect()


def test_unusable_command_is_reported(rless: Product) -> None:
    for command, code in (("no-such", 127), ("/etc", 126)):
        done = rless("run", "--network", "none", "--join=bad", rless.image, command)
        assert done.code == code
        assert f"cannot execute {command}" in done.one_line_error()
    done = rless("run", "--network", "none", "--join=bad", "--pull=never", "no-such-image", "true")
    assert done.code == 125
    assert "is not in the local store" in done.one_line_error()


@pytest.mark.parametrize("key", ["../../etc/x", "a/b", "a b", "ü", "x" * 200, "."])
def test_key_is_not_a_path(rless: Product, key: str) -> None:
    rank = start(rless, key, "sh", "-c", "echo ready; read _", flags=["-i"])
    assert ready(rank) == "ready"
    names = os.listdir(rless.storage / "names")
    assert len(names) == 1
    assert names[0].startswith("join-")
    rank.communicate(b"\n", timeout=10)


@pytest.mark.parametrize(
    "flags",
    ["-d", "-t", "--name=xy", "--restart=always", "--pid=container:x", "--init", "--cidfile=x",
     "--log-driver=local", "--explain"],
)  # fmt: skip
def test_contradicting_flags_are_refused(rless: Product, flags: str) -> None:
    done = rless("run", "--join", flags, rless.image, "true")
    assert done.code == 125
    assert "--join contradict each other" in done.one_line_error()


def test_key_is_derived_from_the_launcher() -> None:
    slurm = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}
    assert join.default_key(slurm) == "12.3"
    assert join.default_key({**slurm, "PMIX_NAMESPACE": "prterun-1"}) == "prterun-1"
    # In a batch script there is a job, but no step; mpirun starts the ranks there.
    parent = join.default_key({"SLURM_JOB_ID": "12"})
    assert parent.startswith(f"{os.getppid()}-")
    assert parent == join.default_key({})


def test_children_of_one_parent_share_a_container(rless: Product) -> None:
    one, two = (
        rless.start(
            "run", "-q", "-i", "--network", "none", "--join", rless.image,
            "sh", "-c", "readlink /proc/self/ns/mnt; read _",
        )
        for _ in range(2)
    )  # fmt: skip
    assert ready(one) == ready(two)
    for rank in (one, two):
        rank.communicate(b"\n", timeout=10)


def test_descriptor_of_the_launcher_is_kept(rless: Product) -> None:
    reader, writer = os.pipe()
    other = os.dup(writer)
    rank = start(
        rless, "pmi", "sh", "-c", f"echo pmi >&{writer}; [ ! -e /proc/self/fd/{other} ]",
        pass_fds=(writer, other), flags=["-e", f"PMI_FD={writer}"],
    )  # fmt: skip
    os.close(writer)
    os.close(other)
    assert rank.wait(20) == 0
    assert os.read(reader, 10) == b"pmi\n"
    os.close(reader)


def test_cdi_edits_apply_to_every_rank(rless: Product, tmp_path: Path) -> None:
    edits = {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}], "env": ["GPU=a"]}
    devices = [{"name": "0", "containerEdits": edits}]
    file = tmp_path / "vendor.json"
    file.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": devices}))
    file.chmod(0o644)
    more = {"flags": ["--gpus=all", "-i"], "env": {"RLESS_GPUS_CDI_DIRECTORIES": str(tmp_path)}}
    ranks = [
        start(rless, "gpu", "sh", "-c", "echo $GPU $(head -c 2 /dev/gpu0 | wc -c); read _", **more)
        for _ in range(2)
    ]
    assert [ready(rank) for rank in ranks] == 2 * ["a 2"]
    for rank in ranks:
        rank.communicate(b"\n", timeout=10)


_READ_MEMORY = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
static char secret[] = "of a rank";
int main(int argc, char **argv)
{
	char found[sizeof(secret)] = "";
	struct iovec ours = { found, sizeof(found) }, theirs = { secret, sizeof(found) };

	if (argc == 1) {
		printf("%p\n", (void *)secret);
		fflush(stdout);
		return getchar() == EOF;
	}
	theirs.iov_base = (void *)strtoul(argv[2], NULL, 16);
	if (process_vm_readv(atoi(argv[1]), &ours, 1, &theirs, 1, 0) < 0)
		printf("%s\n", strerror(errno));
	else
		printf("%s\n", found);
	return 0;
}
"""


@pytest.mark.needs("compiler")
def test_ranks_can_read_each_others_memory(rless: Product, tmp_path: Path) -> None:
    if Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        assert Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() in "01"
    (tmp_path / "memory.c").write_text(_READ_MEMORY)
    program = static_program(str(tmp_path / "memory.c"))
    shutil.copy(program, tmp_path / "memory")
    mount = ["-v", f"{tmp_path}:/m"]
    one = start(rless, "cma", "/m/memory", flags=["-i", *mount])
    address = ready(one)
    two = start(rless, "cma", "/m/memory", str(one.pid), address, flags=mount)
    assert ready(two) == "of a rank"
    # What is not joined may not.
    alone = rless.run(["--pid", "host", *mount], "/m/memory", str(one.pid), address)
    assert alone.out.strip() == os.strerror(errno.EPERM)
    one.communicate(b"\n", timeout=10)


RING = r"""
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
	int rank, size, sum = 0, many = 1 << 20;
	char *sent = malloc(many), *got = malloc(many);

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	memset(sent, rank, many);
	MPI_Sendrecv(sent, many, MPI_CHAR, (rank + 1) % size, 0, got, many, MPI_CHAR,
			(rank + size - 1) % size, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	printf("rank %d of %d: sum %d, got %d\n", rank, size, sum, got[many - 1]);
	MPI_Finalize();
	return 0;
}
"""


@pytest.mark.needs("mpirun", "mpicc")
def test_open_mpi_runs(rless: Product, tmp_path: Path) -> None:
    # In memory that the ranks share, and by reading each other's (the default for long messages).
    (tmp_path / "ring.c").write_text(RING)
    subprocess.run(["mpicc", "-o", str(tmp_path / "ring"), str(tmp_path / "ring.c")], check=True)
    # Its session directory must be short, and seen inside.
    session = Path("/tmp") / f"rless-mpi-{os.getpid()}"
    session.mkdir(mode=0o700)
    rank = tmp_path / "rank"
    names = "OMPI_|PMIX_|PMI_"
    rank.write_text(
        "#!/bin/sh\n"
        f"flags=$(env | sed -nE 's/^(({names})[A-Za-z0-9_]*)=.*/-e \\1/p')\n"
        f'exec "$@" $flags host: {tmp_path}/ring\n'
    )
    rank.chmod(0o755)
    flags = ["run", "-q", "--join", "--userns=keep-id", "--network=host", "--ipc=host"]
    flags += ["-v", f"{session}:{session}", "-v", f"{tmp_path}:{tmp_path}"]
    try:
        done = subprocess.run(
            ["mpirun", "--oversubscribe", "-n", "4", str(rank), *rless.argv(*flags)],
            env={**rless.environment(), "TMPDIR": str(session)},
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        shutil.rmtree(session)
    assert done.returncode == 0, done
    expected = [f"rank {n} of 4: sum 6, got {(n + 3) % 4}" for n in range(4)]
    assert sorted(done.stdout.decode().splitlines()) == expected
