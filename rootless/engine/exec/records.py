"""Records of processes that are made first and started later, as Docker's API does it.

    <container>/execs/<id>.json      what is to be run, and what became of it
    <container>/execs/<id>.started   it was started, by one of those who tried
    <container>/execs/<id>.end       its exit code, written by its keeper

They are on disk, so whoever asks for an exit code need not be who has started the process. They go
with the container, or five minutes after the process has ended, when the next one is made.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rootless import paths
from rootless.engine.exec.exec import ExecRequest, tell_created
from rootless.engine.exec.process import check
from rootless.engine.state.container import (
    all_ids,
    containers_root,
    find,
    is_alive,
    load,
    read_json,
    unlink,
    write_json,
)
from rootless.errors import CONFLICT, NOT_FOUND, RlessError

if TYPE_CHECKING:
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import Process

_KEPT = 300.0  # seconds
_LOST = 137  # the code of a process whose keeper was killed


def create(request: ExecRequest) -> str:
    """Record a process that is to be run; return its id.

    Raises:
        RlessError: the container does not run, or is paused.
    """
    container = find(request.container)
    check(container)
    _clear(container)
    exec_id = os.urandom(32).hex()
    paths.private_dir(directory(container))
    record = {
        "id": exec_id,
        "container": container.id,
        "created": time.time(),
        "request": {name: getattr(request, name) for name in ExecRequest.__slots__},
    }
    write_json(_path(container, exec_id), record)
    tell_created(request, container, exec_id)
    return exec_id


def directory(container: Container) -> str:
    """Return where the records of a container are."""
    return f"{container.directory}/execs"


def get(exec_id: str) -> tuple[Container, dict[str, Any]]:
    """Return the container and the record of an id.

    Raises:
        RlessError: there is none.
    """
    if exec_id.isalnum() and exec_id.isascii() and len(exec_id) == 64:
        root = containers_root()
        for container_id in all_ids():
            if not os.path.lexists(f"{root}/{container_id}/execs/{exec_id}.json"):
                continue
            container = load(container_id)
            record = _read(container, exec_id) if container is not None else None
            if container is not None and record is not None:
                return container, record
    raise RlessError(f"no such exec instance: {exec_id[:64]}", exit_code=1, kind=NOT_FOUND)


def request_of(record: dict[str, Any]) -> ExecRequest:
    """Return the request of a record."""
    request = ExecRequest(record["container"], [])
    for name, value in record["request"].items():
        if name in ExecRequest.__slots__:
            setattr(request, name, value)
    return request


def claim(container: Container, exec_id: str) -> None:
    """Note that the process is started; one who tries can.

    Raises:
        RlessError: it was started before.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(f"{directory(container)}/{exec_id}.started", flags, 0o600))
    except FileExistsError:
        raise RlessError(
            f"exec instance {exec_id[:12]} was started already", exit_code=1, kind=CONFLICT
        ) from None


def note_start(container: Container, exec_id: str, pid: int, keeper: Process) -> None:
    """Record that the process runs, and who waits for it."""
    path = _path(container, exec_id)
    record = read_json(path)
    if record is not None:
        _write(path, {**record, "pid": pid, "keeper": keeper})


def note_end(container: Container, exec_id: str, code: int) -> None:
    """Record the exit code."""
    _write(f"{directory(container)}/{exec_id}.end", {"code": code, "ended": time.time()})


def _write(path: str, value: dict[str, Any]) -> None:
    try:
        write_json(path, value)
    except OSError:
        pass  # the disk is full, or the container has gone just now


def state_of(container: Container, record: dict[str, Any]) -> tuple[bool, int | None]:
    """Return whether the process runs, and its exit code; None: it has none yet."""
    if record.get("code") is not None:
        return False, record["code"]
    keeper = record.get("keeper")
    if keeper is None:
        return False, None
    if is_alive(keeper):
        return True, None
    # A keeper ends after it has written the code, and perhaps after the record was read.
    return False, _end(container, record["id"]).get("code", _LOST)


def running(container: Container) -> list[str]:
    """Return the ids of the processes that run."""
    names = set(_names(container))
    # Many have ended, of a health check of a client's or a loop: those are not read.
    begun = sorted(
        name[:-8] for name in names if name[-8:] == ".started" and f"{name[:-8]}.end" not in names
    )
    found = (_read(container, exec_id) for exec_id in begun)
    return [
        record["id"] for record in found if record is not None and state_of(container, record)[0]
    ]


def _names(container: Container) -> list[str]:
    try:
        return os.listdir(directory(container))
    except OSError:
        return []


def _read(container: Container, exec_id: str) -> dict[str, Any] | None:
    record: dict[str, Any] | None = read_json(_path(container, exec_id))
    return record if record is None else {**record, **_end(container, exec_id)}


def _end(container: Container, exec_id: str) -> dict[str, Any]:
    """Return what the keeper has written at the end; nothing, as long as there is none."""
    return read_json(f"{directory(container)}/{exec_id}.end") or {}


def _clear(container: Container) -> None:
    """Remove the records of processes that have ended long ago."""
    oldest = time.time() - _KEPT
    for name in _names(container):
        if name[-4:] == ".end" and _written(f"{directory(container)}/{name}") < oldest:
            exec_id = name[:-4]
            unlink(_path(container, exec_id))
            for kind in ("started", "end"):
                unlink(f"{directory(container)}/{exec_id}.{kind}")


def _written(path: str) -> float:
    """Return when a file was written, in seconds; one that is not there is new."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return time.time()


def _path(container: Container, exec_id: str) -> str:
    return f"{directory(container)}/{exec_id}.json"
