"""What a user does to containers that exist: list, stop, kill, wait, logs, rm."""

from __future__ import annotations

import os
import time

from rootless.engine.container import (
    Container,
    all_ids,
    delete,
    find,
    is_alive,
    load,
    signal_process,
)
from rootless.engine.sweep import sweep
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal


def list_containers(ended_too: bool = False) -> list[dict[str, Any]]:
    """Return what `ps` shows, newest first; only running ones unless `ended_too`."""
    sweep()
    rows = []
    for container_id in all_ids():
        container = load(container_id)
        if container is None:
            continue
        status, code = container.status()
        if status != "running" and not ended_too:
            continue
        facts = container.facts
        process = container.init()
        rows.append(
            {
                "id": container_id,
                "name": facts["name"],
                "image": facts["image"],
                "command": facts["command"],
                "created": facts["created"],
                "status": status,
                "exit_code": code,
                "started": (container.live() if process else facts).get("started"),
                "finished": container.finished(),
                "pid": process[0] if process else 0,
                "ports": facts["ports"],
                "labels": facts["labels"],
            }
        )
    return sorted(rows, key=lambda row: float(row["created"]), reverse=True)


def stop(reference: str, timeout: int | None) -> None:
    """Ask a container to end by its stop signal, and kill it after `timeout` seconds.

    Args:
        timeout: None: the container's own; -1: wait for ever.
    """
    container = find(reference)
    process = container.init()
    if process is None:
        return
    limit = container.facts["stop_timeout"] if timeout is None else timeout
    container.send(container.facts["stop_signal"])
    if not _wait_end(container, None if limit < 0 else limit):
        signal_process(process, signal.SIGKILL)
        _wait_end(container, None)


def kill(reference: str, name: str) -> None:
    """Send a signal, by name or number, to a container."""
    find(reference).send(signal_number(name))


def wait(reference: str) -> int:
    """Wait until a container has ended; return its exit code."""
    container = find(reference)
    _wait_end(container, None)
    return container.status()[1] or 0


def _wait_end(container: Container, timeout: float | None) -> bool:
    """Wait until the container and what cleans up after it have ended; False: not in time."""
    import select

    deadline = None if timeout is None else time.monotonic() + timeout
    for name in ("init", "monitor"):
        process = container.live().get(name)
        if not process or not is_alive(process):
            continue
        try:
            pidfd = pidfd_open(process[0])
        except SyscallError:
            continue
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            while is_alive(process):
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if name == "monitor":
                    left = None  # it only cleans up now
                if left == 0.0:
                    return False
                poll.poll(None if left is None else 1000 * left)
        finally:
            os.close(pidfd)
    return True


def logs(reference: str, follow: bool, out_fd: int, err_fd: int) -> None:
    """Copy the log of a container; `follow`: until the container has ended.

    Raises:
        RlessError: it keeps none.
    """
    container = find(reference)
    path = f"{container.directory}/log"
    if container.facts["log"]["driver"] != "local":
        raise RlessError(f"container {container.facts['name']} has no log", exit_code=1)
    for number in range(9, 0, -1):
        try:
            with open(f"{path}.{number}", "rb") as older:
                _copy_log(older, out_fd, err_fd)
        except FileNotFoundError:
            pass
    while not os.path.exists(path):
        if not (follow and container.init()):
            return
        time.sleep(_LOG_POLL)
    file = open(path, "rb")  # noqa: SIM115
    try:
        while True:
            # Looked at before the copy, so that nothing written in between is missed.
            running = follow and container.init() is not None
            _copy_log(file, out_fd, err_fd)
            if not running:
                return
            if os.path.exists(path) and os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = open(path, "rb")  # noqa: SIM115
                continue
            time.sleep(_LOG_POLL)
    finally:
        file.close()


_LOG_POLL = 0.1  # seconds


def _copy_log(file: Any, out_fd: int, err_fd: int) -> None:
    """Copy the frames of a log of the driver `local`."""
    while True:
        start = file.tell()
        _, _, rest = file.readline().partition(b" ")
        stream, _, size = rest.partition(b" ")
        data = file.read(int(size) + 1) if size.endswith(b"\n") else b""
        if not data.endswith(b"\n") or len(data) != int(size) + 1:
            file.seek(start)
            return
        view = memoryview(data)[:-1]
        while view:
            view = view[os.write(err_fd if stream == b"stderr" else out_fd, view) :]


def remove(reference: str, force: bool = False) -> None:
    """Remove a container and all that it has on disk; `force` kills it first.

    Raises:
        RlessError: it runs.
    """
    container = find(reference)
    process = container.init()
    if process is not None:
        if not force:
            raise RlessError(
                f"container {container.facts['name']} is running",
                "stop it first (rless stop), or use rless rm -f",
                1,
            )
        signal_process(process, signal.SIGKILL)
    _wait_end(container, None)
    if os.path.lexists(container.directory):
        delete(container)
