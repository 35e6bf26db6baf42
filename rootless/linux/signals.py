"""The module `signal` for the path of a start: `from rootless.linux.signals import signal`.

Python's own loads `enum` to name its numbers, 1.5 ms of every start. The C module below it has the
same functions and numbers, as plain integers.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["signal"]
