"""Processes that are run in a container beside its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from rootless.engine.attach.detach_keys import Keys
from rootless.engine.attach.terminal import resize as set_size
from rootless.engine.exec import exec as engine
from rootless.engine.exec import records
from rootless.engine.exec.process import check, supervisor
from rootless.engine.state import events
from rootless.engine.state.container import this_process
from rootless.errors import CONFLICT, INVALID, RlessError
from rootless.linux import unix
from rootless.service import children, inputs
from rootless.service.endpoints.attach import stream_type
from rootless.service.endpoints.containers import reference
from rootless.service.endpoints.lifecycle import size_of
from rootless.service.http import HttpError, Request, Response
from rootless.service.streams import Pump, frame

if TYPE_CHECKING:
    from rootless.engine.state.container import Container
    from rootless.oci.runtime_spec import Box

# Of processes with a client here: id -> master, once it has started; -1: there is none.
_terminals: dict[str, asyncio.Future[int]] = {}
_PATIENCE = 10.0  # seconds that a process which is asked for a size may take to start
_LONGEST = 65536


async def create(request: Request) -> Response:
    """Record a process that is to be run."""
    body = request.json()
    wanted = engine.ExecRequest(reference(request), inputs.words(body, "Cmd") or [])
    if not wanted.command:
        raise HttpError(400, "No exec command specified")
    wanted.tty = inputs.get(body, "Tty", False)
    wanted.interactive = inputs.get(body, "AttachStdin", False)
    wanted.privileged = inputs.get(body, "Privileged", False)
    wanted.user = inputs.get(body, "User", "") or None
    wanted.workdir = inputs.get(body, "WorkingDir", "") or None
    if wanted.workdir is not None and not wanted.workdir.startswith("/"):
        raise HttpError(400, f"WorkingDir: {wanted.workdir!r} is not an absolute path")
    env = inputs.texts(body, "Env")
    wanted.env = [entry for entry in env if "=" in entry]
    wanted.env_remove = [entry for entry in env if "=" not in entry]
    keys = inputs.get(body, "DetachKeys", "")
    wanted.detach_keys = keys or None
    Keys(wanted.detach_keys)  # refused now: later there is no answer any more
    wanted.detach = not any(
        inputs.get(body, name, False) for name in ("AttachStdin", "AttachStdout", "AttachStderr")
    )
    return Response({"Id": records.create(wanted)}, 201)


async def inspect(request: Request) -> Response:
    """Show a process, and its exit code."""
    container, record = records.get(request.names["id"])
    runs, code = records.state_of(container, record)
    wanted = record["request"]
    return Response(
        {
            "ID": record["id"],
            "Running": runs,
            "ExitCode": code,
            "ProcessConfig": {
                "tty": wanted["tty"],
                "entrypoint": wanted["command"][0],
                "arguments": wanted["command"][1:],
                "privileged": wanted["privileged"],
                "user": wanted["user"] or "",
            },
            "OpenStdin": wanted["interactive"],
            "OpenStderr": not wanted["detach"],
            "OpenStdout": not wanted["detach"],
            "CanRemove": False,
            "ContainerID": container.id,
            "DetachKeys": wanted["detach_keys"] or "",
            "Pid": record.get("pid") or 0,
        }
    )


async def resize(request: Request) -> Response:
    """Set the size of a process's terminal."""
    _, record = records.get(request.names["id"])
    rows, columns = size_of(request)
    terminal = _terminals.get(record["id"])
    if terminal is not None:
        await asyncio.wait((terminal,), timeout=_PATIENCE)
    has_one = terminal is not None and terminal.done() and not terminal.cancelled()
    master = terminal.result() if terminal is not None and has_one else -1
    if master < 0:
        raise RlessError(
            f"exec instance {record['id'][:12]} has no terminal here", exit_code=1, kind=CONFLICT
        )
    set_size(master, rows, columns)
    return Response()


async def start(request: Request) -> Response | None:
    """Start a process, and connect the client to its streams."""
    container, record = records.get(request.names["id"])
    body = request.json()
    wanted = records.request_of(record)
    if inputs.get(body, "Detach", False):
        wanted.detach = True
    # Whether there is a terminal was said at the create; here, how the client reads it.
    framed = not inputs.get(body, "Tty", False)
    size = _size(body)
    group = supervisor(check(container))
    records.claim(container, record["id"])
    if wanted.detach:
        (await _begin(container, record["id"], wanted, size, group)).close()
        return Response()
    terminal = _terminals[record["id"]] = asyncio.get_running_loop().create_future()
    try:
        ahead = await request.connection.take_over(request, stream_type(request, not framed))
        try:
            process = await _begin(container, record["id"], wanted, size, group)
        except RlessError as error:
            text = f"{error}\r\n".encode()
            await request.connection.write(frame(1, text) if framed else text)
            return None
        terminal.set_result(process.master)
        try:
            pump = Pump(request.connection, wanted.tty, wanted.detach_keys, framed=framed)
            await _attend(process, pump, ahead)
            if pump.detached:
                events.of_container("exec_detach", container, execID=record["id"])
        finally:
            process.close()
    finally:
        del _terminals[record["id"]]
        terminal.cancel()
    return None


async def _attend(process: _Process, pump: Pump, ahead: bytes) -> None:
    """Copy between a client and a process, until one of them ends."""
    ended = asyncio.ensure_future(children.readable(process.result))
    try:
        await pump.run(ahead, process.input(), process.outputs(), (1, 2), ended)
    finally:
        ended.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ended


def _size(body: dict[str, Any]) -> Box | None:
    size: list[Any] = inputs.get(body, "ConsoleSize", [])
    if len(size) != 2 or not all(isinstance(one, int) and 0 < one < 65536 for one in size):
        return None
    return {"height": size[0], "width": size[1]}


class _Process:
    """A process that was started, as the service sees it: descriptors; -1: there is none."""

    def __init__(self, names: list[str], fds: list[int]) -> None:
        found = dict(zip(names, fds, strict=True))
        self.result = found.get("result", -1)
        self.pidfd = found.get("pidfd", -1)
        self.stdin = found.get("stdin", -1)
        self.stdout = found.get("stdout", -1)
        self.stderr = found.get("stderr", -1)
        self.master = found.get("master", -1)
        # Its end tells who holds the terminal beside us that we read it no longer.
        self.reading = found.get("reading", -1)

    def input(self) -> int:
        """Return where input goes; what is returned is closed by who has it."""
        if self.master >= 0:
            return os.dup(self.master)
        fd, self.stdin = self.stdin, -1
        return fd

    def outputs(self) -> dict[int, int]:
        """Return where output comes from, by stream."""
        if self.master >= 0:
            return {1: self.master}
        return {1: self.stdout, 2: self.stderr}

    def close(self) -> None:
        """Close all."""
        children.close(self.result, self.pidfd, self.stdin, self.stdout, self.stderr)
        children.close(self.master, self.reading)


async def _begin(
    container: Container, exec_id: str, wanted: engine.ExecRequest, size: Box | None, group: str
) -> _Process:
    """Start a process by a child, which hands its streams over and stays as its keeper.

    Args:
        group: the control group for those who stay; "": ours.

    Raises:
        RlessError: it cannot be started.
    """
    ours, theirs = unix.pair(unix.SOCK_SEQPACKET)
    try:
        pid = children.fork(
            lambda: _start(container, exec_id, wanted, size, theirs), {theirs}, group
        )
        os.close(theirs)
        children.follow(pid)
        while True:
            await children.readable(ours)
            try:
                message, fds = unix.receive(ours, _LONGEST, 7, unix.MSG_DONTWAIT)
                break
            except BlockingIOError:
                continue
    finally:
        os.close(ours)
    if not message:
        raise RlessError("the process that starts another was killed")
    said = json.loads(message)
    if isinstance(said, dict):
        raise RlessError(*said["error"])
    return _Process(said, fds)


def _start(
    container: Container, exec_id: str, wanted: engine.ExecRequest, size: Box | None, fd: int
) -> None:
    """Start a process, and keep it; in the child."""

    def ended(code: int) -> None:
        records.note_end(container, exec_id, code)

    try:
        streams = engine.Streams(wanted)
        config = engine.keeper_config(container, exec_id, records.directory(container))
        process = engine.begin(
            engine.Keeper, wanted, container, exec_id, streams, size, config=config, ended=ended
        )
        master = streams.receive_master()
        reading = reader = -1
        if master >= 0:  # it outlives us, however we end
            if not wanted.detach:
                reader, reading = os.pipe()
            engine.hold_terminal(process.pidfd, master, reader)
        records.note_start(container, exec_id, process.pid, this_process())
        given = {
            "result": process.result,
            "pidfd": process.pidfd,
            "stdin": streams.stdin,
            "stdout": streams.stdout,
            "stderr": streams.stderr,
            "master": master,
            "reading": reading,
        }
        given = {name: one for name, one in given.items() if one >= 0}
        unix.send(fd, json.dumps(list(given)).encode(), list(given.values()))
        process.keep()
    except RlessError as error:
        if error.exit_code in (126, 127) and not error.kind:
            error.kind = INVALID
        said = [error.message, error.hint, error.exit_code, error.kind]
        unix.send(fd, json.dumps({"error": said}).encode(), [])
