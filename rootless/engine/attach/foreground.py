"""The process in front: the one that the user has started, and that waits for the container.

    front                                maker
      passes signals on                    image, container, namespaces, root, init
      |  <-- A: the link, the pipes ------ |  from now on it is the front's
      |  -- a --------------------------->  |  no signal is sent any more
      |                                     |  becomes the monitor by execve
      |  <-- B: the application runs ------ |
      |  <-> streams, signals               |
      |  <-- X code ----------------------- |

Of `rless run` the front is the launcher (helpers/foreground), which forks before it executes
Python: so there is one Python process, and what stays in front of a container takes some kilobytes.
It becomes Python (`cli.foreground`) where a terminal is to be served, or something went wrong.
Elsewhere, and where the launcher is a script, `fork_foreground` forks. Either way the two say the
same to each other.

The maker ends with the front, and the container with it until its application has begun: from
then on the link is a leash only where the front stays.
"""

from __future__ import annotations

import os

from rootless import jsontext, launch, log
from rootless.errors import RlessError
from rootless.linux import prctl, unix
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from rootless.engine.start.pipes import Pipes
    from rootless.engine.state.container import Container

ALWAYS, UNTIL_BEGUN = 1, 2  # of the monitor's config, `stop_on_disconnect`
_PROXY, _DETACH, _PYTHON = 16, 8, 32


class Attachment:
    """How the front takes part in a container.

    Attributes:
        streams: those that it passes on, of stdin, stdout, stderr; () leaves the container alone.
        keys: that detach, where there is a terminal, as typed; None: the default.
        proxy: signals are passed on.
        leash: the container ends with the front, until that is detached.
        says: what the front prints when it leaves the container alone.
    """

    __slots__ = ("keys", "proxy", "says", "stop_on_disconnect", "streams")

    def __init__(
        self,
        streams: Sequence[str],
        keys: str | None,
        *,
        proxy: bool,
        stop_on_disconnect: bool,
        says: str = "",
    ) -> None:
        self.streams = tuple(streams)
        self.keys = keys
        self.proxy = proxy
        self.stop_on_disconnect = stop_on_disconnect
        self.says = says


class Foreground:
    """The front, as the maker sees it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def hand_over(
        self, container: Container, attachment: Attachment, pipes: Pipes, keep: bool, notify: str
    ) -> None:
        """Give it the container.

        Args:
            keep: a start that fails leaves the container.
            notify: the mode of --sdnotify, if a service manager is to be told; else "".
        """
        facts = {
            "id": container.id,
            "tty": container.facts["tty"],
            "streams": attachment.streams,
            "keys": attachment.keys,
            "proxy": attachment.proxy,
            "says": attachment.says,
            "keep": keep,
            "remove": container.facts["rm"],
            "notify": notify,
            "storage": os.environ.get("RLESS_STORAGE"),
            "debug": log.enabled,
        }
        flags, fds = 0, [pipes.link]
        for bit, fd in ((1, pipes.stdin), (2, pipes.stdout), (4, pipes.stderr)):
            if fd >= 0:
                flags |= bit
                fds.append(fd)
        if not attachment.streams:
            flags |= _DETACH
        if attachment.proxy:
            flags |= _PROXY
        if facts["tty"] or notify:
            flags |= _PYTHON
        says = attachment.says.encode("utf-8", "surrogateescape")
        text = jsontext.dumps(facts).encode("utf-8", "surrogateescape")
        try:
            unix.send(self._fd, b"A" + bytes([flags]) + says + b"\0" + text, fds)
        except OSError:
            pass  # it was killed, and we are about to be
        pipes.close_foreground_ends()

    def settle(self) -> None:
        """Be sure that it sends no signal any more, and end with it no longer.

        Raises:
            RlessError: it was killed.
        """
        if os.read(self._fd, 1) != b"a":
            raise RlessError("the command was killed", exit_code=137)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        os.close(self._fd)
        self._fd = -1
        prctl.set_parent_death_signal(0)  # the link is the leash

    def step_aside(self) -> NoReturn:
        """Have the launcher become Python itself, on the same words: this process ends."""
        os.write(self._fd, b"S")
        os._exit(0)


def of_launcher() -> Foreground | None:
    """Return the launcher, if that is in front of us."""
    return Foreground(launch.front) if launch.front >= 0 else None


def fork_foreground(maker: Callable[[Foreground], int]) -> int:
    """Run `maker` with a front: the launcher if that is one, else us, and the maker in a fork.

    Returns:
        What `maker` returned, or the exit code of the container that it has handed over.

    Raises:
        RlessError: of `maker`, or of the container.
    """
    if (launcher := of_launcher()) is not None:
        return maker(launcher)
    ours, theirs = unix.pair(unix.SOCK_SEQPACKET)
    parent = os.getpid()
    # A key, or what the front passes on, finds the maker where it is caught.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(ours)
            prctl.set_parent_death_signal(signal.SIGKILL)
            os.setsid()
            if os.getppid() == parent:
                _make(maker, theirs)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(theirs)
    from rootless.engine.attach.session import ForegroundParent

    return ForegroundParent(ours, pid).follow()


def _make(maker: Callable[[Foreground], int], fd: int) -> None:
    """Run the maker in its process, which ends; tell the front what came of it."""
    code = 0
    try:
        said = b"R" + maker(Foreground(fd)).to_bytes(4, "little", signed=True)
    except KeyboardInterrupt:
        os._exit(130)
    except RlessError as error:
        said = b"E" + jsontext.dumps([error.message, error.hint, error.exit_code]).encode()
    except BaseException as error:
        if log.enabled:
            import traceback

            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        what = f"internal error: {type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.strerror:
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        said = b"E" + jsontext.dumps([what, None, 125]).encode()
    try:
        os.write(fd, said)
    except OSError:
        code = 70
    os._exit(code)
