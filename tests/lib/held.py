"""Start the monitor of a container by itself: a process in place of the container, its orders."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rootless.engine.monitor import execute
from rootless.engine.state import monitor_client
from rootless.engine.state.container import Container
from rootless.engine.state.monitor_client import Client
from tests.lib.compiled import sanitized_program, static_program

ID = "c" * 64


class Held:
    """A monitor and what it holds."""

    def __init__(
        self,
        directory: Path,
        program: str,
        command: Sequence[str],
        *,
        stdin: bool = False,
        prepare: Callable[[], None] | None = None,
        **orders: Any,
    ) -> None:
        """Start `command` as the application, held by a monitor: "c" or "sanitized".

        Args:
            stdin: the application's standard input is the monitor's to write.
            prepare: called in the monitor before it begins.
        """
        self.directory = directory / "containers" / ID
        self.directory.mkdir(parents=True)
        (directory / "names").mkdir()
        (directory / "names" / "held").symlink_to(ID)
        self.base = directory
        self.live = directory / "live"
        self.live.write_text("{}")
        self.events = directory / "events"
        self.container = Container(ID, str(self.directory), {"name": "held"})
        build = sanitized_program if program == "sanitized" else static_program
        path = str(build("helpers/monitor"))
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(ready)
                self._become(path, command, stdin, prepare, orders, tell)
            finally:
                os._exit(99)
        os.close(tell)
        self.init = int(os.read(ready, 20))
        os.close(ready)
        self._clients: list[Client] = []

    def _become(
        self,
        path: str,
        command: Sequence[str],
        stdin: bool,
        prepare: Callable[[], None] | None,
        given: dict[str, Any],
        tell: int,
    ) -> None:
        out, err = os.pipe(), os.pipe()
        typed = os.pipe() if stdin else (-1, -1)
        with open("/dev/null") as null:
            app = subprocess.Popen(
                command,
                stdin=typed[0] if stdin else null,
                stdout=out[1],
                stderr=err[1],
                start_new_session=True,
                restore_signals=True,
            )
        for fd in (out[1], err[1], typed[0]):
            if fd >= 0:
                os.close(fd)
        orders = {
            "id": ID,
            "directory": self.directory,
            "name": "held",
            "attributes": json.dumps({"label": "l", "image": "an image"})[1:-1],
            "live": self.live,
            "names": self.base / "names",
            "events": self.events,
            "started": "12.5",
            "init": app.pid,
            "init_fd": os.pidfd_open(app.pid),
            "listener": monitor_client.listen(str(self.directory)),
            "in": typed[1],
            "out": out[0],
            "err": err[0],
            "log": "local",
            "restart": "no",
            "mount": "",
            **given,
        }
        pairs = [(key, str(value)) for key, value in orders.items()]
        for key, value in pairs:
            if key in execute.FDS and int(value) >= 0:
                os.set_inheritable(int(value), True)
        fd = execute.encode(pairs)
        os.set_inheritable(fd, True)
        os.write(tell, str(app.pid).encode())
        os.close(tell)
        if prepare is not None:
            prepare()
        os.execve(path, ["rless-monitor", str(fd)], {})

    def connect(self) -> Client:
        """Connect to it."""
        deadline = time.monotonic() + 10
        while (client := monitor_client.connect(self.container)) is None:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.005)
        self._clients.append(client)
        return client

    def attach(self, stdin: bool = False) -> tuple[Client, int, int, int]:
        """Attach; return the client and our ends of the pipes: standard input (or -1), outputs."""
        client = self.connect()
        pipes = [os.pipe(), os.pipe(), os.pipe()]
        client.attach(pipes[0][0] if stdin else -1, pipes[1][1], pipes[2][1])
        for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(fd)
        if not stdin:
            os.close(pipes[0][1])
        return client, pipes[0][1] if stdin else -1, pipes[1][0], pipes[2][0]

    def wait(self, seconds: float = 20) -> None:
        """Wait until the monitor has ended."""
        deadline = time.monotonic() + seconds
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            assert time.monotonic() < deadline, "the monitor goes on"
            time.sleep(0.005)
        self.pid = 0

    def exit(self) -> dict[str, Any]:
        """Return exit.json."""
        found: dict[str, Any] = json.loads((self.directory / "exit.json").read_text())
        return found

    def actions(self) -> list[str]:
        """Return what happened, by the events."""
        return [json.loads(line)["action"] for line in self.events.read_text().splitlines()]

    def memory(self) -> int:
        """Return the proportional set size of the monitor in kB."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    def close(self) -> None:
        """End what is left."""
        for client in self._clients:
            client.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def frames(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (stream, bytes) of the frames of a log of the driver local, oldest file first."""
    older = sorted(path.parent.glob("log.*"), key=lambda file: -int(file.suffix[1:]))
    for file in [*older, path]:
        data = file.read_bytes()
        while data:
            head, _, data = data.partition(b"\n")
            stamp, stream, size = head.split(b" ")
            assert len(stamp) == 30, head
            assert data[int(size) : int(size) + 1] == b"\n"
            yield stream.decode(), data[: int(size)]
            data = data[int(size) + 1 :]


def small_files(limit: int) -> None:
    """Let no file of this process grow beyond `limit`: a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
