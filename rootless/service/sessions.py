"""Containers with a client at this moment: those that it starts, attaches to and waits for.

Docker's client attaches before it starts a container, and asks for its end before that. So what is
attached to a container that does not run waits here for its start, and gets the pipes that the
start has made: nothing that the application says is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from rootless import jsontext
from rootless.engine.attach.session import AttachedContainer, ForegroundParent
from rootless.engine.manage.signals import clear_dead
from rootless.engine.start.start import RUNS, start_for
from rootless.engine.state import events, monitor_client
from rootless.engine.state.container import containers_root, is_alive, load
from rootless.errors import CONFLICT, UNCHANGED, RlessError
from rootless.linux import unix
from rootless.service import changes, children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.state.container import Container
    from rootless.engine.state.monitor_client import Client

_LOOK = 0.05  # seconds: what another process starts is not told to us
_LONG = 1.0  # seconds after which what is told is looked at all the same
_LONGEST = 65536  # bytes of a message of the start process


class Streams:
    """The ends of a container's pipes; -1: there is none."""

    def __init__(self, stdin: int, stdout: int, stderr: int, client: Client | None = None) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.client = client

    def close(self) -> None:
        """Close all that is open."""
        children.close(self.stdin, self.stdout, self.stderr)
        self.stdin = self.stdout = self.stderr = -1
        if self.client is not None:
            self.client.close()


_attaching: dict[str, list[tuple[Sequence[str], asyncio.Future[Streams]]]] = {}
_ends: dict[str, list[asyncio.Future[int]]] = {}
_starting: set[str] = set()  # ids


# -- start -----------------------------------------------------------------------------------------


async def start(container: Container) -> None:
    """Start a container; return once its application runs.

    Raises:
        RlessError: it cannot be started, or it runs already.
    """
    waiting = [one for one in _attaching.pop(container.id, []) if not one[1].done()]
    first = waiting[0] if waiting else None
    streams = first[0] if first else ()
    if container.id in _starting:
        raise RlessError("the container is being started already", kind=UNCHANGED)
    ours, theirs = unix.pair(unix.SOCK_SEQPACKET)
    _starting.add(container.id)
    try:
        pid = children.fork(lambda: start_for(container, streams, theirs), {theirs})
        os.close(theirs)
        ended = children.follow(pid)
        message, fds = await _receive(ours)
        if message[:1] != b"A":
            await ended
            _refused(message)
        with contextlib.suppress(OSError):  # it has failed meanwhile, and has said why
            os.write(ours, b"a")
        link = fds.pop(0)
        pipes = [fds.pop(0) if message[1] & bit else -1 for bit in (1, 2, 4)]
        if first is not None and not first[1].done():
            first[1].set_result(Streams(pipes[0], pipes[1], pipes[2]))
        else:
            children.close(*pipes)
        facts = jsontext.loads(message[2:].partition(b"\0")[2])
        parent = ForegroundParent(ours, pid)
        followed = AttachedContainer(link, (-1, -1, -1), pid, facts, parent.why)
        await _begun(followed, ended)
        _follow(container, followed.client)
    except BaseException as error:
        if isinstance(error, RlessError) and load(container.id) is None:
            for end in _ends.pop(container.id, []):  # it was removed, and never ends
                if not end.done():
                    end.set_result(error.exit_code)
        for _, future in waiting:
            if not future.done():
                future.set_exception(
                    error if isinstance(error, RlessError) else RlessError("the start has failed")
                )
                future.exception()  # nobody may wait for it any more
        raise
    finally:
        _starting.discard(container.id)
        os.close(ours)
    for _, future in waiting[1:]:
        if not future.done():
            try:
                future.set_result(await attach_running(container, ("stdin", "stdout", "stderr")))
            except RlessError as error:
                future.set_exception(error)


def _refused(message: bytes) -> None:
    """Tell why the start process has not handed a container over.

    Raises:
        RlessError: why.
    """
    if message[:1] == b"E":
        raise RlessError(*jsontext.loads(message[1:]))
    if message[:1] == b"R" and int.from_bytes(message[1:], "little", signed=True) == RUNS:
        raise RlessError("the container runs already", kind=UNCHANGED)
    raise RlessError("the start process was killed")


async def _receive(fd: int) -> tuple[bytes, list[int]]:
    while True:
        await children.readable(fd)
        try:
            return unix.receive(fd, _LONGEST, 4, unix.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            continue  # it has not read all of ours; what it said is there


async def _begun(followed: AttachedContainer, ended: asyncio.Future[int]) -> None:
    """Wait until the application runs.

    Raises:
        RlessError: it does not; what the start has made is cleaned up.
    """
    client = followed.client
    while not (client.begun or client.gone or client.failed is not None or client.code is not None):
        await children.readable(client.fd)
        client.hear()
    if client.begun:
        return
    if client.failed is not None:
        failure = client.failed
        client.close()
        await ended
        followed.failed(failure)
    await ended
    followed.lost()
    raise RlessError("the container's start was ended")


def _follow(container: Container, client: Client) -> None:
    """Tell those who wait when the container ends."""
    waiting = _ends.pop(container.id, [])
    task = asyncio.ensure_future(_tell_end(container, client, waiting))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()


async def _tell_end(
    container: Container, client: Client, waiting: list[asyncio.Future[int]]
) -> None:
    try:
        code = await _end_of(container, client)
    finally:
        client.close()
    for future in waiting:
        if not future.done():
            future.set_result(code)


async def _end_of(container: Container, client: Client) -> int:
    while client.code is None and not client.gone:
        await children.readable(client.fd)
        client.hear()
    if client.code is None:
        if is_alive(container.run_record().get("monitor")):
            return await _ended(container)  # it restarts the container
        clear_dead(container)
        return _recorded(container)
    return client.code


def _recorded(container: Container) -> int:
    ended = container.exit_record()
    return int(ended["code"]) if ended else container.status()[1] or 0


async def _ended(container: Container) -> int:
    """Return the exit code of a container that runs, once it has ended."""
    before = container.finished()
    while True:
        client = monitor_client.connect(container)
        if client is not None:
            try:
                return await _end_of(container, client)
            finally:
                client.close()
        if load(container.id) is None or container.status()[0] == "exited":
            return _recorded(container)
        if container.finished() not in (None, before):
            return _recorded(container)
        await asyncio.sleep(_LOOK)


# -- wait ------------------------------------------------------------------------------------------


async def _removed(container: Container) -> None:
    """Wait until a container is gone."""
    with changes.of(containers_root()) as change:
        while os.path.lexists(container.directory):
            await change.wait(_LONG)
            change.clear()


class End:
    """The end of a container, that is awaited from the moment on when this is made."""

    def __init__(self, container: Container, condition: str) -> None:
        """Await it.

        Args:
            condition: not-running, next-exit or removed.
        """
        self._container = container
        self._condition = condition
        self._before = container.finished()
        self._up = container.status()[0] in ("running", "paused", "restarting")
        self._client = monitor_client.connect(container) if self._up else None
        self._future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # Whoever starts it here tells us; a short run of another's is seen by its record.
        if not self._up and condition != "not-running":
            _ends.setdefault(container.id, []).append(self._future)

    async def code(self) -> int:
        """Return the exit code.

        Raises:
            RlessError: the container was removed before it has run.
        """
        try:
            code = await self._code()
            if self._condition == "removed":
                await _removed(self._container)
            return code
        finally:
            if self._client is not None:
                self._client.close()
            self._forget()

    async def _code(self) -> int:
        if self._client is not None:
            return await _end_of(self._container, self._client)
        if self._up:
            return await _ended(self._container)
        if self._condition == "not-running":
            return _recorded(self._container)
        while True:
            done, _ = await asyncio.wait((self._future,), timeout=_LOOK)
            if done:
                return self._future.result()
            if self._container.id in _starting or self._is_promised():
                continue  # a start of ours is at it
            if load(self._container.id) is None:
                return self._recorded_or_gone()
            if self._container.finished() not in (None, self._before):
                return _recorded(self._container)
            if self._container.init() is not None:
                return await _ended(self._container)

    def _is_promised(self) -> bool:
        """Tell whether a start of ours has taken over to tell the end."""
        return self._future not in _ends.get(self._container.id, [])

    def _recorded_or_gone(self) -> int:
        if self._condition == "removed":
            return 0
        raise RlessError(f"container {self._container.facts['name']} is gone", exit_code=1)

    def _forget(self) -> None:
        waiting = _ends.get(self._container.id, [])
        if self._future in waiting:
            waiting.remove(self._future)
        if not waiting:
            _ends.pop(self._container.id, None)


# -- attach ----------------------------------------------------------------------------------------


async def attach_running(container: Container, streams: Sequence[str]) -> Streams:
    """Return pipes to a container that runs.

    Raises:
        RlessError: it does not run.
    """
    client = monitor_client.connect(container)
    if client is None:
        raise RlessError(
            f"container {container.facts['name']} is not running", exit_code=1, kind=CONFLICT
        )
    pipes = [os.pipe() for _ in range(3)]
    with_input = "stdin" in streams and container.facts["stdin_open"]
    found = Streams(pipes[0][1], pipes[1][0], pipes[2][0], client)
    try:
        client.attach(pipes[0][0] if with_input else -1, pipes[1][1], pipes[2][1])
    except BaseException:
        found.close()
        raise
    finally:
        children.close(pipes[0][0], pipes[1][1], pipes[2][1])
    if not with_input:
        children.close(found.stdin)
        found.stdin = -1
    return found


async def attach(container: Container, streams: Sequence[str]) -> Streams:
    """Return pipes to a container, once it runs."""
    if container.init() is not None:
        found = await attach_running(container, streams)
    else:
        future: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()
        entry = (streams, future)
        _attaching.setdefault(container.id, []).append(entry)
        try:
            while not future.done():
                await asyncio.wait((future,), timeout=_LOOK)
                if future.done():
                    break
                if container.id in _starting or entry not in _attaching.get(container.id, []):
                    continue  # a start of ours is at it
                if load(container.id) is None:
                    raise RlessError(f"container {container.facts['name']} is gone", exit_code=1)
                if container.init() is not None:  # somebody else has started it
                    return await attach_running(container, streams)
            found = future.result()
        finally:
            waiting = _attaching.get(container.id, [])
            if entry in waiting:
                waiting.remove(entry)
            if not waiting:
                _attaching.pop(container.id, None)
            future.cancel()  # does nothing where it has its streams
    events.of_container("attach", container)
    return found


def resize(container: Container, rows: int, columns: int) -> None:
    """Set the size of a container's terminal.

    Raises:
        RlessError: it does not run.
    """
    client = monitor_client.connect(container)
    if client is None:
        raise RlessError(
            f"container {container.facts['name']} is not running", exit_code=1, kind=CONFLICT
        )
    client.resize(rows, columns)
    client.close()
