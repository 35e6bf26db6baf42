"""Starts by the service: what the start process says, whenever it says it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from rootless.errors import CONFLICT, RlessError
from rootless.linux import unix
from rootless.service import children, sessions

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("is_there", [False, True])
def test_start_that_fails_late_is_told(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    """It has handed the container over, and has ended before it could get our answer.

    Who waits for the end is answered if the container has gone with this, and not if it goes on.
    """

    def fork(body: Callable[[], object], kept: set[int]) -> int:
        link, monitor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (fd,) = kept
        with link, monitor:
            unix.send(fd, b"A\0\0" + json.dumps({"id": "none"}).encode(), [link.fileno()])
        unix.send(fd, b"E" + json.dumps(["that one is taken", None, 1, CONFLICT]).encode(), [])
        pid = os.fork()
        if pid == 0:
            os._exit(1)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    answered = []

    async def start(container: Any) -> None:
        end = asyncio.get_running_loop().create_future()
        monkeypatch.setitem(sessions._ends, container.id, [end])
        try:
            await sessions.start(container)
        finally:
            answered.append(end.result() if end.done() else None)

    monkeypatch.setattr(sessions, "load", lambda _: object() if is_there else None)
    monkeypatch.setattr(children, "fork", fork)
    with pytest.raises(RlessError, match="that one is taken") as caught:
        asyncio.run(start(cast("Any", SimpleNamespace(id="none", facts={"rm": True}))))
    assert caught.value.kind == CONFLICT
    assert answered == [None if is_there else 1]
