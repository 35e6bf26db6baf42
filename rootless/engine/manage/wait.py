"""Wait for containers to end, and return their exit codes."""

from __future__ import annotations

import os
import select
import time

from rootless.engine.manage.signals import LAST_LOOK, Running, clear_dead, take
from rootless.engine.state.container import Container, find, load
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NOT_RUNNING, NEXT_EXIT, REMOVED = "not-running", "next-exit", "removed"


def wait(
    references: Iterable[str], condition: str = NOT_RUNNING
) -> Iterator[tuple[int, RlessError | None]]:
    """Yield the exit codes of containers, in order, each once it has ended.

    Args:
        condition: NOT_RUNNING: it does not run now; NEXT_EXIT: it ends from now on; REMOVED: it
            is there no more.
    """
    waits: list[tuple[_Exit | None, RlessError | None]] = []
    for reference in references:
        try:
            waits.append((_Exit(find(reference)), None))
        except RlessError as error:
            waits.append((None, error))
    for awaited, outcome in waits:
        if awaited is None:
            yield 0, outcome
            continue
        try:
            yield awaited.code(condition), None
        except RlessError as failure:
            yield 0, failure


class _Exit:
    """The next end of a container; it is opened early, since the container may soon be removed."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._before = container.finished()
        self._running = take(container)

    def code(self, condition: str) -> int:
        """Wait, and return the exit code."""
        while self._running is None and condition == NEXT_EXIT:
            if load(self._container.id) is None:
                raise RlessError(f"container {self._container.facts['name']} is gone", exit_code=1)
            if self._container.finished() not in (None, self._before):
                break  # it has come and gone between two looks
            time.sleep(LAST_LOOK)
            self._running = take(self._container)
        code = self._recorded() if self._running is None else self._wait(self._running)
        while condition == REMOVED and os.path.lexists(self._container.directory):
            time.sleep(LAST_LOOK)
        return code

    def _wait(self, running: Running) -> int:
        """Wait for this end, after which a restart by policy may follow."""
        poll = select.poll()
        try:
            while True:
                poll.register(running.fd, select.POLLIN)
                fd = running.fd
                poll.poll()
                if running.has_ended():
                    break
                poll.unregister(fd)
            code = None if running.client is None else running.client.code
            clear_dead(self._container)
            return self._recorded() if code is None else code
        finally:
            running.close()

    def _recorded(self) -> int:
        ended = self._container.exit_record()
        return int(ended["code"]) if ended else self._container.status()[1] or 0
