"""What a user does to containers that exist: stop, kill, wait, logs, rm."""

from __future__ import annotations

import os
import time

from rootless.engine.container import (
    Container,
    delete,
    find,
    is_alive,
    signal_process,
)
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal


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
    """Copy the log of a detached container; `follow`: until the container has ended.

    Standard output and standard error of the container are one stream in it.

    Raises:
        RlessError: it keeps none.
    """
    container = find(reference)
    path = f"{container.directory}/log"
    try:
        with open(f"{path}.1", "rb") as older:
            _copy_log(older.fileno(), out_fd)
    except FileNotFoundError:
        pass
    while not os.path.exists(path):
        if not (follow and container.init()):
            if container.facts["detach"]:
                return
            raise RlessError(
                f"container {container.facts['name']} has no log",
                "it ran in the foreground; run it with -d",
            )
        time.sleep(_LOG_POLL)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            # Looked at before the copy, so that nothing written in between is missed.
            running = follow and container.init() is not None
            _copy_log(fd, out_fd)
            if not running:
                return
            if os.path.exists(path) and os.stat(path).st_ino != os.fstat(fd).st_ino:
                os.close(fd)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                continue
            time.sleep(_LOG_POLL)
    finally:
        os.close(fd)


_LOG_POLL = 0.1  # seconds


def _copy_log(fd: int, out_fd: int) -> None:
    while data := os.read(fd, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(out_fd, view) :]


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
