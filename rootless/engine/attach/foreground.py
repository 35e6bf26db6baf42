"""The foreground process: the user has started it, and it waits for the container.

    foreground process                   start process
      passes signals on                    image, container, namespaces, root, init
      |  <-- A: the link, the pipes ------ |  the foreground process has the container now
      |  -- a --------------------------->  |  and sends no more signals to this process
      |                                     |  becomes the monitor by execve
      |  <-- B: the application runs ------ |
      |  <-> streams, signals               |
      |  <-- X code ----------------------- |

For `rless run` the foreground process is the launcher (helpers/foreground). It forks before it
executes Python, so there is only one Python process, and the process that stays takes some
kilobytes. It becomes Python itself (`cli.foreground`) where it has to serve a terminal, or where
something went wrong.
For other commands `fork_foreground` forks. The protocol is the same.

The start process ends with the foreground process. So does the container, until its application
runs. After that the container ends with the link only if it was started with stop_on_disconnect.
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
_PROXY, _DETACH, _PYTHON, _KEYS = 16, 8, 32, 64


class Attachment:
    """How the foreground process takes part in a container.

    Attributes:
        streams: the ones of stdin, stdout and stderr that it copies; (): it detaches at once.
        keys: the keys to detach from a terminal, as typed; None: the default.
        proxy: it forwards signals.
        group: a key of the caller's terminal is for all of the application's process group.
        stop_on_disconnect: the container ends with the foreground process, until the user detaches.
        says: what the foreground process prints when it detaches at once.
    """

    __slots__ = ("group", "keys", "proxy", "says", "stop_on_disconnect", "streams")

    def __init__(
        self,
        streams: Sequence[str],
        keys: str | None,
        *,
        proxy: bool,
        stop_on_disconnect: bool,
        group: bool = False,
        says: str = "",
    ) -> None:
        self.streams = tuple(streams)
        self.keys = keys
        self.proxy = proxy
        self.group = group
        self.stop_on_disconnect = stop_on_disconnect
        self.says = says


class Foreground:
    """The foreground process, as the start process sees it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def hand_over(
        self, container: Container, attachment: Attachment, pipes: Pipes, keep: bool, notify: str
    ) -> None:
        """Give it the container.

        Args:
            keep: whether the container stays if its start fails.
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
        if attachment.group:
            flags |= _KEYS
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
        """Wait until it sends no more signals to this process, and no longer end with it.

        Raises:
            RlessError: it was killed.
        """
        if os.read(self._fd, 1) != b"a":
            raise RlessError("the command was killed", exit_code=137)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        os.close(self._fd)
        self._fd = -1
        prctl.set_parent_death_signal(0)  # its end is seen by the link from now on

    def step_aside(self) -> NoReturn:
        """End, so that the launcher becomes Python itself and runs the same command line."""
        os.write(self._fd, b"S")
        os._exit(0)


def of_launcher() -> Foreground | None:
    """Return the launcher, if it is our foreground process."""
    return Foreground(launch.foreground_fd) if launch.foreground_fd >= 0 else None


def fork_foreground(body: Callable[[Foreground], int]) -> int:
    """Run `body` in the start process, with a foreground process beside it.

    If the launcher has forked this process, the launcher is the foreground process. Otherwise this
    process is, and `body` runs in a fork.

    Returns:
        What `body` returned, or the exit code of the container that it has handed over.

    Raises:
        RlessError: from `body`, or from the container.
    """
    if (launcher := of_launcher()) is not None:
        return body(launcher)
    ours, theirs = unix.pair(unix.SOCK_SEQPACKET)
    parent = os.getpid()
    # Ctrl-C, or a signal that is forwarded, must reach the start process where it is caught.
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
                run_start_process(body, theirs)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(theirs)
    from rootless.engine.attach.session import ForegroundParent

    return ForegroundParent(ours, pid).follow()


def run_start_process(body: Callable[[Foreground], int], fd: int) -> NoReturn:
    """Run `body` in this process, report the result to the foreground process, and exit."""
    code = 0
    try:
        said = b"R" + body(Foreground(fd)).to_bytes(4, "little", signed=True)
    except KeyboardInterrupt:
        os._exit(130)
    except RlessError as error:
        said = (
            b"E" + jsontext.dumps([error.message, error.hint, error.exit_code, error.kind]).encode()
        )
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
