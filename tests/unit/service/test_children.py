"""Class 76: how many children work at once; what they say is one line of the log."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rootless import log
from rootless.errors import RlessError
from rootless.service import children


def served(monkeypatch: pytest.MonkeyPatch, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on a loop that waits for its children, as the service does."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, children.reap)
        await asyncio.wait_for(body(), 60)
        await asyncio.gather(*children._ended.values())  # they end after they have answered
        loop.remove_signal_handler(signal.SIGCHLD)

    monkeypatch.setattr(children, "_slots", {})
    asyncio.run(run())


@pytest.mark.parametrize(("slot", "most"), [("", 32), ("pull", 8)])
def test_children_beyond_the_limit_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slot: str, most: int
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    begun = tmp_path / "begun"
    begun.mkdir()

    def work() -> None:
        (begun / str(os.getpid())).touch()
        with open(fifo, "rb", buffering=0) as file:
            file.read(1)  # until one is let through

    async def count(wanted: int) -> None:
        while len(list(begun.iterdir())) < wanted:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # another one would have begun by now
        assert len(list(begun.iterdir())) == wanted

    async def body() -> None:
        opened = os.open(fifo, os.O_RDWR)
        tasks = [asyncio.create_task(children.call(work, slot=slot)) for _ in range(most + 2)]
        await count(most)
        os.write(opened, b".")
        await count(most + 1)
        os.write(opened, b"." * (most + 1))
        await asyncio.gather(*tasks)
        os.close(opened)

    served(monkeypatch, body)


def test_what_a_child_met_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise ValueError("it\nrless[1] 0.0 ms  all is well\x1b[2J")

    async def body() -> None:
        with pytest.raises(RlessError, match="internal error: ValueError"):
            await children.call(work)

    monkeypatch.setattr(log, "enabled", True)
    served(monkeypatch, body)
    (line,) = capfd.readouterr().err.splitlines()
    assert line[:-1].isprintable()
    assert "all is well" in line
