"""docker and podman as workflow engines type them: lines that their clients were seen to run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.lib.fronts import Front
from tests.lib.product import Product, own_rless, rless, shared_product, wait_for

__all__ = ["own_rless", "rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "compiler")
ME = f"{os.getuid()}:{os.getgid()}"
NO_GROUP = {"RLESS_CONTAINERS_CGROUP_MANAGER": "none"}


@pytest.fixture
def docker(rless: Product) -> Front:
    return Front(rless, "docker")


@pytest.fixture
def podman(rless: Product) -> Front:
    return Front(rless, "podman")


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_cwltool(rless: Product, tmp_path: Path, name: str) -> None:
    """A read-only root with mount points that it lacks; the id is there before the output."""
    front = Front(rless, name)
    out, data = tmp_path / "out", tmp_path / "a:b.txt"
    out.mkdir()
    data.write_text("data\n")
    words = ["--userns=keep-id"] if name == "podman" else []
    done = front(
        *("run", "-i", *words, f"--mount=type=bind,source={out},target=/abc123"),
        f"--mount=type=bind,source={data},target=/var/lib/cwl/stg1/a:b.txt,readonly",
        *("--workdir=/abc123", "--read-only=true", "--net=none", "--log-driver=none"),
        *(f"--user={ME}", "--rm", f"--cidfile={out}/id", "--env=TMPDIR=/tmp", "--env=HOME=/abc123"),
        *("--memory=100m", "--cpus=1", "--shm-size=20m", front.product.image, "sh", "-c"),
        "cat id /var/lib/cwl/stg1/*; id -u; echo; df -k /dev/shm | tail -n 1;"
        "touch made; ! touch /no 2>/dev/null",
        env=NO_GROUP,
    ).expect()
    first, *rest = done.lines()
    assert re.fullmatch("[0-9a-f]{64}data", first)
    assert rest[:2] == [str(os.getuid()), ""]
    assert rest[2].split()[1] == "20480"
    assert (out / "made").stat().st_uid == os.getuid()
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith(f"{name}: warning: each process has at most 104857600 bytes")


def test_limits_are_enforced_where_the_site_says_so(docker: Front) -> None:
    flags = ("--rm", "--network=none", "--memory=100m")
    refused = docker(
        *("run", *flags, docker.product.image, "true"),
        env={**NO_GROUP, "RLESS_FRONT_LIMITS": "enforce"},
    ).expect(125)
    assert refused.err.startswith("docker: --memory needs a control group")
    own = docker("run", *flags, "--limits=enforce", docker.product.image, "true", env=NO_GROUP)
    assert own.expect(125).err == refused.err


def test_nextflow(docker: Front, tmp_path: Path) -> None:
    """With variables that are passed by name, and a container that is gone already at the end."""
    done = docker.sh(
        'cd "$2" && docker run -i --cpu-shares 1024 --memory 100m --platform linux/amd64'
        ' -e "K=V" -e "NAME" --network none -v "$PWD":"$PWD" -w "$PWD" --entrypoint /bin/sh'
        " -u $(id -u):$(id -g) --name nxf-AbCdEf0123456789012345678 $1"
        " -ue -c 'echo $K $NAME $PWD; echo done > .exitcode'"
        ' && docker rm "nxf-AbCdEf0123456789012345678"'
        " && docker rm nxf-AbCdEf0123456789012345678",
        docker.product.image,
        str(tmp_path),
        env={**NO_GROUP, "NAME": "of the task"},
    ).expect(1)
    assert done.lines() == [f"V of the task {tmp_path}", "nxf-AbCdEf0123456789012345678"]
    assert "no such container" in done.err.splitlines()[-1]
    assert (tmp_path / ".exitcode").read_text() == "done\n"


def test_jenkins(docker: Front, tmp_path: Path) -> None:
    place = str(tmp_path)
    image = docker.product.image
    assert docker("inspect", "-f", ".", image).code == 0
    assert docker("inspect", "-f", ".", "nothing:here").code == 1
    identifier = docker(
        *(
            "run",
            "-t",
            "-d",
            "-u",
            ME,
            "--network=none",
            "-w",
            place,
            "-v",
            f"{place}:{place}:rw,z",
        ),
        *("-e", "********", "-e", "BUILD=7", image, "cat"),
    ).expect()
    assert re.fullmatch("[0-9a-f]{64}\n", identifier.out)
    found = identifier.out.strip()
    top = docker("top", found, "-eo", "pid,comm").expect().lines()
    assert [line.split()[-1] for line in top] == ["COMMAND", "cat"]
    step = docker(
        *("exec", "--workdir", place, "--env", "K=V", found, "sh", "-c"),
        "echo $K $BUILD; pwd; echo made > file; kill -KILL $$",
    ).expect(137)
    assert step.lines() == ["V 7", place]
    assert (tmp_path / "file").stat().st_uid == os.getuid()
    told = docker(
        *("inspect", "-f"),
        "{{.Config.Hostname}} {{.Name}} {{json .Created}} {{.Image}} {{.Id}}"
        "{{range .Mounts}} {{.Source}}={{.Destination}}{{end}}",
        found,
    ).expect()
    hostname, name, created, image_id, whole, mount = told.out.split()
    assert (hostname, name[0], whole) == (found[:12], "/", found)
    assert re.match(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', created)
    assert re.fullmatch("sha256:[0-9a-f]{64}", image_id)
    assert mount == f"{place}={place}"
    inside = docker("exec", found, "grep", f" /containers/{found}/hostname ", "/proc/1/mountinfo")
    assert inside.expect().out.split()[4] == "/etc/hostname"
    assert docker("port", found, "8000").code == 1
    stats = docker("stats", "--no-trunc", "--no-stream", "--format", "{{.MemPerc}}", found)
    assert re.fullmatch(r"[\d.]+%\n", stats.expect().out)
    assert docker("kill", "-s", "KILL", found).expect().out == identifier.out
    docker("rm", "-f", "--volumes", found).expect()


def test_stats_ends_in_silence_with_its_reader(docker: Front, tmp_path: Path) -> None:
    """cwltool terminates it; a pipe that nobody reads any more ends it too."""
    found = (
        docker("run", "-d", "--network=none", docker.product.image, "sleep", "1000")
        .expect()
        .out.strip()
    )
    words = ("stats", "--no-trunc", "--format", "{{.MemPerc}}", found)
    process, broken = docker.start(*words), docker.start(*words)
    assert process.stdout and broken.stdout and process.stderr and broken.stderr
    assert process.stdout.readline().endswith(b"%\n")
    broken.stdout.close()
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    assert broken.wait(60) in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
    assert process.stderr.read() + broken.stderr.read() == b""
    for stream in (process.stdout, process.stderr, broken.stderr):
        stream.close()
    docker("rm", "-f", found).expect()


def test_front_that_is_stopped_stops_its_container(podman: Front, tmp_path: Path) -> None:
    """As an engine cancels a task: TERM to the process that it started."""
    process = podman.start(
        *("run", "--rm", "--cpus", "1", "--network=none", "-v", f"{tmp_path}:/w"),
        *(
            podman.product.image,
            "sh",
            "-c",
            "trap 'exit 9' TERM; touch /w/up; while :; do sleep 0.05; done",
        ),
        env=NO_GROUP,
    )
    assert process.stdout and process.stderr
    wait_for((tmp_path / "up").exists, "the task", 60)
    process.terminate()
    assert process.wait(60) == 9
    process.stdout.close()
    process.stderr.close()


def test_galaxy_and_miniwdl(rless: Product, tmp_path: Path) -> None:
    image = rless.image
    (tmp_path / "file").write_text("in\n")
    galaxy = (
        Front(rless, "docker")
        .sh(
            'docker inspect $1 > /dev/null 2>&1; [ $? -ne 0 ] && docker pull "$1" > /dev/null 2>&1;'
            'docker run -e "K=$K" --name job1 -v "$2:$2:rw" -m 100m --cpus ${GALAXY_SLOTS:-1} -w $2'
            " --net none --rm --user $(id -u):$(id -g) $1 sh -c 'echo $K; cat file; exit 3'",
            image,
            str(tmp_path),
            env={**NO_GROUP, "K": "a b"},
        )
        .expect(3)
    )
    assert galaxy.lines() == ["a b", "in"]
    work = "/mnt/miniwdl_task_container/work"
    miniwdl = Front(rless, "podman")(
        *(
            "run",
            "--rm",
            "--network=none",
            "--workdir",
            work,
            "--cpus",
            "1",
            "--memory",
            "100000000",
        ),
        *("--user", ME, "-v", f"{tmp_path}/file:{work}/_miniwdl_inputs/0/file:ro"),
        *("-v", f"{tmp_path}:{work}/out", image, "/bin/sh", "-c"),
        "cat _miniwdl_inputs/0/file; touch out/stdout.txt",
        env=NO_GROUP,
    ).expect()
    assert miniwdl.out == "in\n"
    assert (tmp_path / "stdout.txt").stat().st_uid == os.getuid()


def test_poor_host_is_enough(docker: Front, tmp_path: Path) -> None:
    """Without a home, subordinate ids and a control group, and eight tasks at once."""
    poor = {
        **NO_GROUP,
        "HOME": "/nonexistent",
        "RLESS_CONTAINERS_USERNS": "single",
        "XDG_RUNTIME_DIR": None,
    }
    done = docker.sh(
        "for i in 1 2 3 4 5 6 7 8; do docker run --rm -i --net=none --read-only=true --user=$3"
        ' -v "$2":/w -w /w --cidfile="$2/id$i" --memory=100m --cpus=1 --env=HOME=/w "$1"'
        ' sh -c "id -u > $i; exit $i" 2> "$2/err$i" & pids="$pids $!"; done;'
        "for pid in $pids; do wait $pid; echo $?; done",
        docker.product.image,
        str(tmp_path),
        ME,
        env=poor,
    ).expect()
    assert done.lines() == list("12345678")
    warnings = [(tmp_path / f"err{number}").read_text() for number in range(1, 9)]
    assert {text.count("\n") for text in warnings} == {1}, warnings
    for number in range(1, 9):
        assert (tmp_path / str(number)).read_text() == f"{os.getuid()}\n"
        assert (tmp_path / str(number)).stat().st_uid == os.getuid()


def test_mlflow_and_reframe(docker: Front, tmp_path: Path) -> None:
    done = docker.sh(
        'docker run --rm -v "$2":"/rfm_workdir" -w /rfm_workdir --network none $1'
        " sh -c 'pwd; touch file' && podman run --rm --network none -v $2:/mlflow/projects/code"
        " -w /mlflow/projects/code -e MLFLOW_RUN_ID=7 $1 sh -c 'ls; echo $MLFLOW_RUN_ID'",
        docker.product.image,
        str(tmp_path),
    ).expect()
    assert done.lines() == ["/rfm_workdir", "file", "7"]


def test_information_is_that_of_the_front(docker: Front, podman: Front) -> None:
    assert docker("info", "--format", "{{.ServerVersion}} {{.OSType}}").out == "28.0.0 linux\n"
    assert json.loads(docker("info", "--format", "json").out)["ClientInfo"]["Version"] == "28.0.0"
    rootless = podman("info", "--format", "{{.Host.Security.Rootless}} {{.Store.GraphRoot}}")
    assert rootless.out == f"true {docker.product.storage}\n"
    whole = json.loads(podman("info").out)
    assert whole["host"]["security"]["rootless"] is True
    assert whole["host"]["ociRuntime"]["name"] == "rless-oci"
    assert whole["version"]["Version"].startswith("5.4.0+rless.")
