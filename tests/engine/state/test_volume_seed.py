"""The command that this project grew towards, literally, with a stand-in for the image.

rless run -p 8080:8080 -p 50000:50000 -v DIR:/var/jenkins_home -d jenkins/jenkins
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import images, jenkins
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", *jenkins.NEEDS)

COMMAND = "run -p 8080:8080 -p 50000:50000 -v DIR:/var/jenkins_home -d jenkins/jenkins"
UP = "Jenkins is fully up and running"


@pytest.fixture
def product(own_rless: Product) -> Iterator[Product]:
    """Give rless to a user whose docker.io/jenkins/jenkins is that of the test."""
    with images.registry() as host:
        images.push(jenkins.image(), f"{host}/{jenkins.NAME}:latest")
        conf = own_rless.home / "registries.conf"
        conf.write_text(images.registries_conf(host, jenkins.NAME))
        own_rless.env["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        yield own_rless


def web(port: int, path: str = "/", method: str = "GET") -> str:
    connection = http.client.HTTPConnection("localhost", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    connection.close()
    return text


def agent(port: int, name: str) -> str:
    with socket.create_connection(("localhost", port), 10) as link:
        link.sendall(f"{name}\n".encode())
        return link.makefile().readline()


def ports() -> tuple[int, int]:
    """Return the ports of the command, or others where these are somebody's on this machine."""
    found = []
    for wanted in (8080, 50000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", wanted))
                found.append(wanted)
            except OSError:
                found.append(images.free_port())
    return found[0], found[1]


def owners(directory: Path) -> set[tuple[int, int]]:
    """Return (uid, gid) of all that is below a directory, and of it."""
    found = set()
    for top, _, files in os.walk(directory):
        for path in (top, *(f"{top}/{name}" for name in files)):
            status = os.lstat(path)
            found.add((status.st_uid, status.st_gid))
    return found


def test_seed_command_runs(product: Product, tmp_path: Path) -> None:
    rless, home = product, tmp_path / "jenkins"
    http_port, agent_port = ports()
    words = COMMAND.replace("DIR", str(home)).replace(" 8080:", f" {http_port}:")
    words = words.replace(" 50000:", f" {agent_port}:")

    identifier = rless(*words.split()).expect().out.strip()
    follower = rless.start("logs", "-f", identifier)
    assert follower.stdout is not None
    assert follower.stdout.readline().decode() == f"{UP}\n"

    # It serves, and what it writes is mine.
    assert web(http_port) == "Jenkins\n\n"
    assert "first" in web(http_port, "/first", "POST")
    assert agent(agent_port, "builder") == "Welcome builder\n"
    assert (home / "jobs/first/config.xml").read_text() == "<project/>\n"
    assert (home / "nodes/builder/config.xml").is_file()
    assert (home / "secrets/initialAdminPassword").is_file()
    assert owners(home) == {(os.getuid(), os.getgid())}

    # It is shown.
    row = json.loads(rless("ps", "--format", "json").expect().out)
    assert row["Image"] == "jenkins/jenkins"
    assert row["State"] == "running"
    assert f"0.0.0.0:{http_port}->8080/tcp" in row["Ports"]
    assert f"0.0.0.0:{agent_port}->50000/tcp" in row["Ports"]
    listed = rless("port", identifier).expect().lines()
    assert f"8080/tcp -> 0.0.0.0:{http_port}" in listed
    assert f"50000/tcp -> 0.0.0.0:{agent_port}" in listed
    found = json.loads(rless("inspect", identifier).expect().out)[0]
    assert found["Config"]["User"] == "jenkins"
    assert found["State"]["Running"] is True
    assert found["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] == str(http_port)
    mount = found["Mounts"][0]
    assert (mount["Source"], mount["Destination"]) == (str(home), "/var/jenkins_home")
    stats = json.loads(rless("stats", "--no-stream", "--format", "json").expect().out)
    assert stats["ID"] in identifier
    assert "java" in rless("top", identifier).expect().out

    # It ends in order.
    rless("stop", identifier).expect()
    out, _ = follower.communicate(timeout=20)
    assert out.decode() == "Jenkins stopped\n"
    assert (home / "shutdown.log").read_text() == "in order\n"
    state = json.loads(rless("inspect", "-f", "{{json .State}}", identifier).expect().out)
    assert (state["Status"], state["ExitCode"]) == ("exited", 143)

    # What it has kept is there for the next one.
    password = (home / "secrets/initialAdminPassword").read_text()
    rless("rm", identifier).expect()
    again = rless(*words.split()).expect().out.strip()
    assert again != identifier
    wait_for(lambda: UP in rless("logs", again).out, "the second start")
    assert web(http_port) == "Jenkins\nfirst\n"
    assert (home / "secrets/initialAdminPassword").read_text() == password
    rless("rm", "-f", again).expect()
    assert owners(home) == {(os.getuid(), os.getgid())}
    subprocess.run(["rm", "-r", home], check=True)  # as its owner, without any help
