"""Start the monitor of a container by itself: a process in place of the container, its config."""

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

from rootless.engine.defaults import LOG_FILES, LOG_SIZE
from rootless.engine.monitor import execute
from rootless.engine.monitor.config import MonitorConfig
from rootless.engine.start.startup import health_config
from rootless.engine.state import monitor_client
from rootless.engine.state.container import Container
from rootless.engine.state.monitor_client import Client
from tests.lib.compiled import sanitized_program, static_program

ID = "c" * 64


def monitor_config(base: str) -> MonitorConfig:
    """Return a config without descriptors, and without a process."""
    return {
        "id": ID,
        "name": "held",
        "directory": f"{base}/containers/{ID}",
        "attributes": json.dumps({"label": "l", "image": "an image"})[1:-1],
        "run_record": f"{base}/run-record",
        "names": f"{base}/names",
        "events": f"{base}/events",
        "started": "12.5",
        "remove": False,
        "remove_volumes": False,
        "cgroup": "",
        "mounts": [],
        "lock_fds": [],
        "helper_pids": [],
        "pasta": 0,
        "wait_pasta": False,
        "member_fd": -1,
        "orphans": False,
        "listener_fd": -1,
        "stdin_fd": -1,
        "stdout_fd": -1,
        "stderr_fd": -1,
        "stdin_once": False,
        "client_fd": -1,
        "client_stdin_fd": -1,
        "client_stdout_fd": -1,
        "client_stderr_fd": -1,
        "stop_on_disconnect": 0,
        "connection_fds": [],
        "log": "local",
        "log_size": LOG_SIZE,
        "log_files": LOG_FILES,
        "journal": "",
        "journal_fields": "",
        "restart": "no",
        "restart_max": 0,
        "restarts": 0,
        "restart_delay": 0,
        "stop_signal": int(signal.SIGTERM),
        "stop_timeout": 10,
        "join_timeout": 0,
        **health_config(None),
        "python": [],
        "python_fd": -1,
        "environment": [],
        "code": 0,
        "error": "",
        "init": 0,
        "init_fd": -1,
        "pty_fd": -1,
        "status_fd": -1,
        "release_fd": -1,
        "begun": False,
    }


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
        **config: Any,
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
        self.run_record = directory / "run-record"
        self.run_record.write_text("{}")
        self.events = directory / "events"
        self.container = Container(ID, str(self.directory), {"name": "held"})  # type: ignore[typeddict-item]
        build = sanitized_program if program == "sanitized" else static_program
        path = str(build("helpers/monitor"))
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(ready)
                self._become(path, command, stdin, prepare, config, tell)
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
        config = monitor_config(str(self.base))
        config.update(
            {
                "directory": str(self.directory),
                "run_record": str(self.run_record),
                "listener_fd": monitor_client.listen(str(self.directory)),
                "stdin_fd": typed[1],
                "stdout_fd": out[0],
                "stderr_fd": err[0],
                "init": app.pid,
                "init_fd": os.pidfd_open(app.pid),
            }
        )
        unknown = given.keys() - config.keys()
        assert not unknown, unknown
        config.update(given)  # type: ignore[typeddict-item]
        fd = execute.encode(config)
        os.set_inheritable(fd, True)
        os.write(tell, str(app.pid).encode())
        os.close(tell)
        if prepare is not None:
            prepare()
        os.execve(path, ["rless-monitor", str(fd)], {})

    def connect(self) -> Client:
        """Connect to it."""
        deadline = time.monotonic() + 30
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
