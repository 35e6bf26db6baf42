"""The module `signal` for the path of a start: `from rootless.linux.signals import signal`.

Python's own loads `enum` to name its numbers, 1.5 ms of every start. The C module below it has the
same functions and numbers, as plain integers.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["clear_wakeups", "signal", "wakeups"]

_reader = -1


def wakeups() -> int:
    """Return a descriptor that is readable once a signal has come; one for the whole process.

    Whoever waits in poll(2) for a handler to be called polls this as well. A signal that comes just
    before the call does not end it: it is noted, and its handler runs when poll returns, which may
    be never.

    Where it runs: in the main thread.
    Source: signal.set_wakeup_fd.
    """
    global _reader
    if _reader < 0:
        _reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return _reader


def clear_wakeups() -> None:
    """Forget the signals that have come; their handlers have run by now."""
    try:
        while len(os.read(_reader, 4096)) == 4096:
            pass
    except BlockingIOError:
        pass
