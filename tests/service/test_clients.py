"""The clients themselves, unmodified: the docker command, docker-compose, docker-py."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.lib.service import PATIENCE, Service
from tests.service.test_life import body, image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lib.product import Product

__all__ = ["image"]


class Client:
    """A command that speaks to the service."""

    def __init__(self, program: str, service: Service, home: Path) -> None:
        self.program = program
        self.env = {
            "DOCKER_HOST": f"unix://{service.path}",
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": f"{home}/config",
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        }

    def __call__(self, *args: str, stdin: str = "", code: int = 0) -> str:
        """Return what it prints, standard error too; it must exit with this code."""
        done = subprocess.run(
            [self.program, *args],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == code, (args, done.stdout)
        return done.stdout


@pytest.mark.needs("docker")
def test_docker_command_runs_a_container_and_has_its_exit_code(
    service: Service, image: str, tmp_path: Path
) -> None:
    docker = Client("docker", service, tmp_path)
    run = ("run", "--rm", "--network", "none")
    assert docker(*run, "-i", image, "cat", stdin="in\n") == "in\n"
    assert docker(*run, image, "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    for program, code in (("/none", 127), ("none", 127), ("/etc/passwd", 126), ("/etc", 126)):
        assert f"cannot execute {program}" in docker(*run, image, program, code=code)
    assert "nonet" in docker("run", "--rm", "--network", "nonet", image, "true", code=125)
    assert docker("ps", "-aq") == ""


@pytest.mark.needs("docker")
def test_docker_command_does_a_whole_life(
    service: Service, rless: Product, image: str, tmp_path: Path
) -> None:
    docker = Client("docker", service, tmp_path)
    script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"
    made = docker("run", "-d", "--name", "life", "--network", "none", image, "sh", "-c", script)
    assert rless("ps", "-q", "--no-trunc").lines() == [made.strip()]
    assert docker("exec", "-i", "life", "sh", "-c", "cat; exit 9", stdin="x\n", code=9) == "x\n"
    (tmp_path / "file").write_text("copied\n")
    docker("cp", str(tmp_path / "file"), "life:/srv/")
    docker("cp", "life:/srv/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "copied\n"
    assert "A /srv/file" in docker("diff", "life")
    assert "sh -c" in docker("top", "life")
    docker("pause", "life")
    assert docker("inspect", "-f", "{{.State.Status}}", "life") == "paused\n"
    assert "paused" in docker("exec", "life", "true", code=1)
    docker("unpause", "life")
    docker("rename", "life", "other")
    assert "running" in docker("rm", "other", code=1)
    assert docker("stop", "other") == "other\n"
    assert docker("wait", "other") == "5\n"
    assert docker("logs", "other") == "up\n"
    docker("restart", "other")
    docker("kill", "other")
    assert docker("ps", "--format", "{{.Names}}") == ""
    until = f"{time.time():.9f}"
    seen = docker("events", "--since", "1", "--until", until, "--filter", "event=rename")
    assert "container rename" in seen
    docker("rm", "other")
    (tmp_path / "context").mkdir()
    (tmp_path / "outside").write_text(f"FROM {image}\nLABEL a=b\n")  # it comes behind the context
    said = docker("build", "-f", str(tmp_path / "outside"), "-t", "made:x", f"{tmp_path}/context")
    assert "Successfully tagged made:x" in said
    assert docker("rmi", "made:x").startswith("Untagged: made:x\n")
    assert "No such container: other" in docker("logs", "other", code=1)


PROJECT = """\
services:
  first:
    image: {image}
    command: sh -c 'echo $$WORD; exec sleep 1000'
    environment: {{WORD: "${{WORD:-said}}"}}
    labels: {{odd.label: 'a,b {{"c":[1]}}'}}
    healthcheck: {{test: ["CMD", "true"], interval: 200ms}}
    volumes: ["data:/data", "/anonymous"]
    tmpfs: ["/tmp"]
    networks: {{inner: {{aliases: [other], ipv4_address: 10.98.7.9}}}}
    stop_signal: SIGKILL
  second:
    image: {image}
    command: sleep 1000
    depends_on: {{first: {{condition: service_healthy}}}}
    volumes_from: [first]
    networks: [inner]
    stop_signal: SIGKILL
networks:
  inner:
    internal: true
    ipam: {{config: [{{subnet: 10.98.7.0/24}}]}}
volumes:
  data: {{labels: {{kept: as it is}}}}
"""


@pytest.mark.needs("docker-compose")
def test_compose_recreates_nothing_and_leaves_nothing(
    service: Service, rless: Product, image: str, tmp_path: Path
) -> None:
    (tmp_path / "docker-compose.yml").write_text(PROJECT.format(image=image))
    compose = Client("docker-compose", service, tmp_path)
    where = ("--project-directory", str(tmp_path), "-f", str(tmp_path / "docker-compose.yml"))

    def project(*args: str, **more: int) -> str:
        return compose(*where, "-p", "proj", *args, **more)

    def containers() -> list[str]:
        return sorted(rless("ps", "-aq", "--no-trunc").expect().lines())

    project("up", "-d")
    before = containers()
    assert len(before) == 2
    project("up", "-d")
    assert containers() == before
    assert project("exec", "-T", "first", "sh", "-c", "echo $WORD; exit 3", code=3) == "said\n"
    project("down", "-v", "-t", "0")
    assert containers() == []
    assert rless("volume", "ls", "-q").lines() == []
    project("up", "-d")
    before = containers()
    compose.env["WORD"] = "changed"  # made anew: its volumes go over to the new one
    project("up", "-d", "first")
    assert len(set(containers()) & set(before)) < 2
    assert project("exec", "-T", "first", "sh", "-c", "echo $WORD") == "changed\n"
    project("down", "-v", "-t", "0")
    assert containers() == []
    # The one without a name may stay, as in Docker: the new container has it by its name, and
    # who of the two ends last is not said.
    assert "proj_data" not in rless("volume", "ls", "-q").lines()
    assert "proj" not in rless("network", "ls").out


@pytest.mark.parametrize("user", ["", "1000", "33"])
def test_socket_in_a_container_opens_for_each_user(
    service: Service, rless: Product, image: str, user: str
) -> None:
    """What removes a testcontainers' leftovers runs there, and so do the runners of CI."""
    wanted = {
        **body(image, "", User=user),
        "Cmd": ["probe", "ask", "/var/run/docker.sock"],
    }
    wanted["HostConfig"]["Binds"] = [f"{service.path}:/var/run/docker.sock:ro"]
    status, found = service.ask("POST", "/containers/create?name=inside", wanted)
    assert status == 201, found
    assert "can do what you can" in found["Warnings"][0]
    assert service.ask("POST", "/containers/inside/start")[0] == 204
    assert service.ask("POST", "/containers/inside/wait") == (200, {"StatusCode": 0})
    assert rless("logs", "inside").out == "ask HTTP/1.1 200 OK\n"
    assert service.ask("DELETE", "/containers/inside")[0] == 204
