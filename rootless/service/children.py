"""Work that forks or takes long, in child processes: the loop of the service never waits for it.

A child is a fork of the service. It closes every descriptor but its own at once, or other clients
would never see the end of their connections, and it calls the engine as a command does. What it
returns comes back as JSON, with its warnings.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from rootless import log
from rootless.errors import RlessError, SyscallError
from rootless.linux import ns, prctl
from rootless.linux.process import close_others

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MOST, MOST_PULLS = 32, 8  # at once; more wait in their order
_BLOCK = 65536
_GRACE = 5.0  # seconds
_LENGTH = 8  # bytes before an answer that say how long it is
_OURS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ended: dict[int, asyncio.Future[int]] = {}
_slots: dict[str, asyncio.Semaphore] = {}


class Result:
    """What a child has returned, and the warnings that it has given."""

    def __init__(self, value: Any, warnings: list[str]) -> None:
        self.value = value
        self.warnings = warnings


def fork(body: Callable[[], object], kept: set[int], cgroup: str = "") -> int:
    """Run `body` in a child that has only these descriptors; return its pid.

    Args:
        cgroup: that the child is to be in, if it may; "": ours.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    pid = _fork_into(cgroup) if cgroup else os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    try:
        gc.freeze()  # what is the service's is never collected: it would close descriptors of ours
        signal.set_wakeup_fd(-1)
        for number in _OURS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setsid()
        close_others(kept)
        body()
    except BaseException as error:
        if log.enabled:
            log.debug(f"child: {error!r}")
    finally:
        os._exit(0)


def _fork_into(cgroup: str) -> int:
    try:
        return ns.fork_into(cgroup)
    except (SyscallError, OSError):
        pass  # there is none, or it is not ours; or Linux is older than 5.7
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError), open(f"{cgroup}/cgroup.procs", "w") as file:
            file.write("0")
    return pid


def follow(pid: int) -> asyncio.Future[int]:
    """Return the end of a child, which is waited for."""
    found = _ended[pid] = asyncio.get_running_loop().create_future()
    reap()  # it may have ended before
    return found


def reap() -> None:
    """Wait for the children that have ended; for SIGCHLD."""
    for pid, ended in list(_ended.items()):
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            done, status = pid, 0
        if done:
            del _ended[pid]
            if not ended.done():
                ended.set_result(status)


async def call(
    function: Callable[..., Any], *args: Any, kill: bool = False, slot: str = "", **named: Any
) -> Result:
    """Call a function in a child, and return what it returns.

    Args:
        kill: the child ends with the request, and with the service.
        slot: "pull": it is one of the few that work on images.

    Raises:
        RlessError: of the function, or its process was killed.
    """
    async with _slot(slot):
        reader, writer = os.pipe()
        try:
            pid = fork(lambda: _answer(writer, function, args, named, kill), {writer})
        finally:
            os.close(writer)
        ended = follow(pid)
        try:
            data = b""
            async for chunk in read(reader):
                data += chunk
                if len(data) >= _LENGTH and len(data) >= _LENGTH + _length(data):
                    break
            return _result(data)
        except asyncio.CancelledError:
            if kill and not ended.done():
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            os.close(reader)


class Piped:
    """A child that reads and writes streams: its standard input and output are ours."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        """Start it; it ends with the service."""
        self._input_end, self._input = os.pipe()
        self._output, output_end = os.pipe()
        self._reader, writer = os.pipe()

        def body() -> None:
            os.dup2(self._input_end, 0)
            os.dup2(output_end, 1)
            close_others({writer})
            _answer(writer, function, args, {}, True)

        try:
            self._pid = fork(body, {self._input_end, output_end, writer})
        finally:
            close(self._input_end, output_end, writer)
        self._ended = follow(self._pid)

    async def give(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass on a stream as its standard input; what it does not read is thrown away."""
        async for chunk in chunks:
            if self._input >= 0:
                try:
                    await write(self._input, chunk)
                except OSError:
                    self._input = close(self._input)
        self._input = close(self._input)

    def give_nothing(self) -> None:
        """End its standard input."""
        self._input = close(self._input)

    def output(self) -> AsyncIterator[bytes]:
        """Return what it writes, as it comes."""
        return read(self._output)

    async def result(self) -> Result:
        """Return what the function has returned.

        Raises:
            RlessError: of the function, or its process was killed.
        """
        data = b""
        async for chunk in read(self._reader):
            data += chunk
        return _result(data)

    def close(self) -> None:
        """End it, if it has not ended, and close all; it has a moment to clean up."""
        if not self._ended.done():
            os.kill(self._pid, signal.SIGINT)
            asyncio.get_running_loop().call_later(_GRACE, self._kill)
        close(self._input, self._output, self._reader)

    def _kill(self) -> None:
        if not self._ended.done():
            os.kill(self._pid, signal.SIGKILL)


def slot(name: str) -> asyncio.Semaphore:
    """Return what bounds the children of a kind: "pull", or "" for all others."""
    return _slot(name)


def _slot(slot: str) -> asyncio.Semaphore:
    if slot not in _slots:
        _slots[slot] = asyncio.Semaphore(MOST_PULLS if slot else MOST)
    return _slots[slot]


def _length(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH], "big")


def _result(data: bytes) -> Result:
    if len(data) < _LENGTH or len(data) < _LENGTH + _length(data):
        raise RlessError("the process that did this was killed")
    said = json.loads(data[_LENGTH:])
    if "error" in said:
        raise RlessError(*said["error"])
    return Result(said.get("value"), said["warnings"])


def _answer(writer: int, function: Callable[..., Any], args: Any, named: Any, kill: bool) -> None:
    if kill:
        prctl.set_parent_death_signal(signal.SIGKILL)
    said: dict[str, Any] = {}
    warnings = log.collect()
    try:
        said["value"] = function(*args, **named)
    except RlessError as error:
        said["error"] = [error.message, error.hint, error.exit_code, error.kind]
    except Exception as error:
        if log.enabled:
            import traceback

            log.debug(traceback.format_exc())
        said["error"] = [f"internal error: {type(error).__name__}: {error}"]
    said["warnings"] = warnings
    data = json.dumps(said).encode()
    view = memoryview(len(data).to_bytes(_LENGTH, "big") + data)
    while view:
        view = view[os.write(writer, view) :]


# -- descriptors on the loop -----------------------------------------------------------------------


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def readable(fd: int) -> None:
    """Wait until a descriptor can be read, or has come to its end."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(fd, _settle, future)
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Wait until a descriptor can be written, or nobody reads it any more."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_writer(fd, _settle, future)
    try:
        await future
    finally:
        loop.remove_writer(fd)


async def read(fd: int) -> AsyncIterator[bytes]:
    """Yield what a pipe or a terminal gives, until its end; it is left open."""
    os.set_blocking(fd, False)
    while True:
        try:
            data = os.read(fd, _BLOCK)
        except BlockingIOError:
            await readable(fd)
            continue
        except OSError:
            return  # a terminal whose last user has gone
        if not data:
            return
        yield data


async def write(fd: int, data: bytes) -> None:
    """Write all to a pipe or a terminal.

    Raises:
        OSError: nobody reads it any more.
    """
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await writable(fd)


def close(*fds: int) -> int:
    """Close what is open of these; -1 is none, and is returned."""
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
    return -1
