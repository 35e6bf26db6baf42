"""Files that change: one inotify(7) for all clients that follow events and logs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.linux.inotify import Inotify

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLIND = 0.05  # seconds between two looks where a directory cannot be watched

_inotify: Inotify | None = None
_watches: dict[int, set[Change]] = {}


class Change:
    """A directory that one client follows.

    What is read after `clear` and is not there yet sets it again.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.blind = False

    def tell(self) -> None:
        """Say that something has changed."""
        self._event.set()

    def clear(self) -> None:
        """Forget what has changed before: everything is read after this."""
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change, at most so long; tell whether there was one."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self._event.wait(), min(seconds, _BLIND) if self.blind else seconds
            )
            return True
        return False


@contextlib.contextmanager
def of(directory: str) -> Iterator[Change]:
    """Watch the files of a directory, in a `with` block.

    Where it cannot be watched, because it is not there or the user watches too many, `wait` ends
    after a moment, so that its caller looks again.
    """
    change = Change()
    number = _watch(directory)
    if number is None:
        change.blind = True
        yield change
        return
    _watches.setdefault(number, set()).add(change)
    try:
        yield change
    finally:
        others = _watches.get(number, set())
        others.discard(change)
        if not others and _watches.pop(number, None) is not None and _inotify is not None:
            _inotify.forget(number)


def _watch(directory: str) -> int | None:
    global _inotify
    try:
        if _inotify is None:
            _inotify = Inotify()
            asyncio.get_running_loop().add_reader(_inotify.fd, _tell)
        return _inotify.watch(directory)
    except RlessError:
        return None


def _tell() -> None:
    assert _inotify is not None
    for number in _inotify.read():
        # -1: the kernel has dropped some.
        for one in _watches.get(number, ()) if number != -1 else set().union(*_watches.values()):
            one.tell()
