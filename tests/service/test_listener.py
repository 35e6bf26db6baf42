"""Who listens while no service runs: rless-listener, and what the service inherits from it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lib.compiled import sanitized_program
from tests.lib.product import wait_for
from tests.lib.service import PATIENCE, client_of, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lib.product import Product
    from tests.lib.service import Service

FIRST = 3


class Listener:
    """The program, with a socket of its own and a script in place of the service."""

    def __init__(self, directory: Path, script: str) -> None:
        directory.chmod(0o700)
        self.path = str(directory / "d.sock")
        self.log = directory / "log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound, self.log.open("ab") as log:
            bound.bind(self.path)
            program = str(sanitized_program("helpers/listener"))
            self.process = subprocess.Popen(
                [program, self.path, str(bound.fileno()), "/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env={"KEPT": "yes", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"},
                pass_fds=(bound.fileno(),),
            )
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.read() == b""  # it listens
        assert self.process.poll() is None, self.log.read_text()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[str], Listener]]:
    """Give a function that starts the program."""
    made = []

    def start(script: str) -> Listener:
        made.append(Listener(tmp_path, script))
        return made[-1]

    yield start
    for one in made:
        one.process.terminate()
        assert one.process.wait(PATIENCE) == 0, one.log.read_text()
        assert not os.path.exists(one.path)


@pytest.mark.needs("compiler")
def test_service_is_executed_with_the_socket_one_at_a_time(
    listening: Callable[[str], Listener], tmp_path: Path
) -> None:
    script = (
        "echo $$ $LISTEN_PID $LISTEN_FDS $KEPT/$LISTEN_FDNAMES >>said\n"
        "readlink /proc/$$/fd/3 >>said; while [ ! -e go ]; do sleep 0.02; done; rm go\n"
    )
    listener = listening(script)
    said = tmp_path / "said"
    assert not said.exists()
    with connect(listener.path), connect(listener.path):
        wait_for(lambda: said.exists() and said.read_text().count("\n") == 2, "it", PATIENCE)
        first, socket_name = said.read_text().splitlines()
        pid, told, *rest = first.split()
        assert pid == told
        assert rest == ["1", "yes/"]
        assert socket_name.startswith("socket:")
        (tmp_path / "go").touch()  # nobody has taken the connections: it is executed again
        wait_for(lambda: said.read_text().count("\n") == 4, "the second", PATIENCE)
    assert said.read_text().splitlines()[2].split()[0] != pid


@pytest.mark.needs("compiler")
def test_service_that_fails_again_and_again_is_left_alone(
    listening: Callable[[str], Listener], tmp_path: Path
) -> None:
    listener = listening("echo x >>said; exit 3")
    with connect(listener.path):
        wait_for(lambda: "again and again" in listener.log.read_text(), "the log", PATIENCE)
    assert (tmp_path / "said").read_text() == 5 * "x\n"
    assert listener.log.read_text().count("has ended with 3") == 5


@pytest.mark.needs("compiler")
def test_end_comes_with_the_socket_and_is_passed_on(tmp_path: Path) -> None:
    listener = Listener(
        tmp_path, "trap 'echo ended >said; exit' TERM; >up; while :; do sleep 0.02; done"
    )
    with connect(listener.path):
        wait_for((tmp_path / "up").exists, "the service", PATIENCE)
        os.unlink(listener.path)
        assert listener.process.wait(PATIENCE) == 0, listener.log.read_text()
    assert (tmp_path / "said").read_text() == "ended\n"


def _children(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return stream.read().split()


# -- with the service ------------------------------------------------------------------------------


@pytest.fixture
def on_demand(rless: Product) -> Iterator[Service]:
    """Have somebody listen at the socket of the product."""
    out = rless("service", "env").expect().out
    path = str(rless.runtime / "rless" / "docker.sock")
    assert out == (
        f"export DOCKER_HOST=unix://{path}\nexport DOCKER_BUILDKIT=0\n"
        f"export TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE={path}\n"
    )
    yield client_of(path)
    rless("service", "stop").expect()
    assert not os.path.exists(path)


def services(rless: Product) -> list[int]:
    """Return the pids of Python, by what the listener has as children."""
    found = [pid for pid, what in rless.processes().items() if "(rless-listener)" in what]
    assert len(found) == 1, rless.processes()
    return [int(pid) for pid in _children(found[0])]


def test_service_starts_on_demand_and_its_socket_outlives_it(
    on_demand: Service, rless: Product
) -> None:
    assert services(rless) == []  # idle: no Python
    inode = os.stat(on_demand.path).st_ino
    assert on_demand.ask("GET", "/_ping") == (200, b"OK")
    for _ in range(2):
        (pid,) = services(rless)
        os.kill(pid, signal.SIGKILL)
        assert on_demand.ask("GET", "/_ping") == (200, b"OK")
        assert services(rless) != [pid]
    refused = rless("service").expect(125)
    assert "answers" in refused.one_line_error()
    command = "echo $DOCKER_HOST $DOCKER_BUILDKIT; exit 3"
    done = rless("service", "run", "--", "sh", "-c", command).expect(3)
    assert done.out == f"unix://{on_demand.path} 0\n"
    assert os.stat(on_demand.path).st_ino == inode


def test_fifty_starts_and_stops_leave_nothing(own_rless: Product) -> None:
    """A container that was started through the first service outlives them all."""
    own_rless("pull", "-q", own_rless.image).expect()
    own_rless("tag", own_rless.image, "docker.io/library/probe").expect()
    path = str(own_rless.runtime / "rless" / "docker.sock")
    own_rless("service", "start").expect()
    client = client_of(path)
    wanted = {"Image": "probe", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}
    assert client.ask("POST", "/containers/create?name=stays", wanted)[0] == 201
    assert client.ask("POST", "/containers/stays/start")[0] == 204
    script = f"""if 1:
        from rootless.service import listener
        for _ in range(50):
            assert listener.stop({path!r})
            listener.ensure({path!r})
        """
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=own_rless.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert client.ask("GET", "/containers/stays/json")[1]["State"]["Running"]
    assert services(own_rless)
    own_rless("service", "stop").expect()
    assert own_rless("rm", "-f", "stays").expect().out == "stays\n"
    assert sorted(os.listdir(os.path.dirname(path))) == ["docker.sock.lock", "docker.sock.log"]
    own_rless.assert_clean()


def test_dial_stdio_passes_the_end_of_input_on(on_demand: Service, rless: Product) -> None:
    asked = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    done = rless("system", "dial-stdio", stdin=asked).expect()
    assert done.raw.startswith(b"HTTP/1.1 200")
    assert done.raw.endswith(b"OK")


def test_dead_socket_is_replaced(own_rless: Product) -> None:
    path = str(own_rless.runtime / "rless" / "docker.sock")
    os.mkdir(os.path.dirname(path), 0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    assert own_rless("service", "start").expect().out == f"unix://{path}\n"
    assert client_of(path).ask("GET", "/_ping")[0] == 200
    own_rless("service", "stop").expect()
    assert "nobody" in own_rless("service", "stop").expect().one_line_error()


@pytest.mark.parametrize(
    ("kind", "mode", "message"),
    [
        ("stream", 0o666, "open to other users"),
        ("datagram", 0o600, "no unix stream socket that listens"),
        ("bound", 0o600, "no unix stream socket that listens"),
        ("abstract", 0o600, "has no file"),
        ("tcp", 0o600, "no unix stream socket that listens"),
        ("directory", 0o600, "is open to other users"),
    ],
)
def test_inherited_socket_is_looked_at(
    rless: Product, tmp_path: Path, kind: str, mode: int, message: str
) -> None:
    # security class 73
    tmp_path.chmod(0o755 if kind == "directory" else 0o700)
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(
        family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    ) as fd:
        if kind == "tcp":
            fd.bind(("127.0.0.1", 0))
        elif kind == "abstract":
            fd.bind(f"\0rless-{os.getpid()}-{os.urandom(4).hex()}")
        else:
            path = tmp_path / "d.sock"
            fd.bind(str(path))
            path.chmod(mode)
        if kind not in ("datagram", "bound"):
            fd.listen()
        words = rless.argv("service")
        script = (
            f"import os, sys; os.dup2({fd.fileno()}, {FIRST})\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            env=rless.env,
            pass_fds=(fd.fileno(),),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 125
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
