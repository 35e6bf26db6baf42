"""Stop, kill and restart containers.

Verbs take several containers, and do each step for all of them before they wait: to stop fifty
takes as long as the slowest of them. An error is reported with the container's name, and the others
go on.
"""

from __future__ import annotations

import os

from rootless.engine.manage.signals import Ends, Running, take
from rootless.engine.state import events
from rootless.engine.state.container import STOPPED, Container, find
from rootless.errors import CONFLICT, RlessError
from rootless.linux.process import signal_number
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    # (the name as it was given, what went wrong)
    Outcome = tuple[str, RlessError | None]


def stop(
    references: Iterable[str],
    timeout: int | None = None,
    name: str | None = None,
    by_user: bool = True,
) -> Iterator[Outcome]:
    """Ask containers to end by their stop signals; kill those that have not after a while.

    One that does not run is stopped already. Yields what came of each, in order.

    Args:
        timeout: seconds; None: each container's own; -1: wait for ever.
        name: another signal than each container's own.
        by_user: the user wants it down, also after a reboot.
    """
    ends = Ends()
    asked: list[tuple[str, Running | None, RlessError | None]] = []
    for reference in references:
        try:
            running = take(find(reference))
            if running is not None:
                facts = running.container.facts
                number = facts["stop_signal"] if name is None else signal_number(name)
                limit = facts["stop_timeout"] if timeout is None else timeout
                if by_user:
                    _mark_stopped(running.container)
                running.end(number)
                ends.add(running, None if limit < 0 else limit)
            asked.append((reference, running, None))
        except RlessError as error:
            asked.append((reference, None, error))
    for reference, running, outcome in asked:
        if running is not None:
            ends.wait_down(running, signal.SIGKILL)
            events.of_container("stop", running.container)
        yield reference, outcome


def _mark_stopped(container: Container) -> None:
    """Note that the user wants it down: unless-stopped does not bring it back after a boot."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(f"{container.directory}/{STOPPED}", flags, 0o600))
    except OSError:
        pass  # it is removed just now, or the disk is full: then it may come back


def kill(references: Iterable[str], name: str = "SIGKILL") -> Iterator[Outcome]:
    """Send a signal, by name or number, to containers; after SIGKILL wait for their ends."""
    number = signal_number(name)
    ends = Ends()
    asked: list[tuple[str, Running | None, RlessError | None]] = []
    for reference in references:
        try:
            container = find(reference)
            running = take(container)
            if running is None:
                raise RlessError(
                    f"cannot kill container {container.facts['name']}: it is not running",
                    exit_code=1,
                    kind=CONFLICT,
                )
            # As Docker: by these two the user wants it down, by others she tells it something.
            if number in (signal.SIGKILL, container.facts["stop_signal"]):
                _mark_stopped(container)
                running.end(number)
            else:
                running.signal(number)
            if number == signal.SIGKILL:
                ends.add(running, None)
            else:
                running.close()
                running = None
            asked.append((reference, running, None))
        except RlessError as error:
            asked.append((reference, None, error))
    for reference, running, outcome in asked:
        if running is not None:
            ends.wait_down(running, number)
        yield reference, outcome


def restart(
    references: Iterable[str], timeout: int | None = None, name: str | None = None
) -> Iterator[Outcome]:
    """Stop containers and start them again, with what they were made of."""
    from rootless.engine.start.start import start

    for reference, outcome in stop(references, timeout, name):
        if outcome is None:
            try:
                container = find(reference)
                start(container)
                events.of_container("restart", container)
            except RlessError as failure:
                yield reference, failure
                continue
        yield reference, outcome
