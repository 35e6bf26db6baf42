"""The life of the service: how it begins, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from typing import TYPE_CHECKING

from rootless import log
from rootless.service import listener
from rootless.service.endpoints import lifecycle
from rootless.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_THRESHOLD = 1000  # objects, about Python's own


def serve(
    path: str,
    idle: float,
    given: socket.socket | None = None,
    tell: Callable[[], object] = lambda: None,
) -> int:
    """Serve on a socket until a signal comes, or nobody has been there for long enough.

    Args:
        path: absolute. idle: seconds; 0: for ever.
        given: a socket that somebody else holds, who goes on listening after our end.
        tell: called once clients can connect.

    Raises:
        RlessError: the socket cannot be made, or another service has it.
    """
    with _bound(path) if given is None else given as found:
        tell()
        found.setblocking(False)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        lifecycle.socket_path = path
        server = Server(found, idle)
        # rless looks for garbage seldom, because a start is short (`launch.start`); not so here.
        gc.set_threshold(_THRESHOLD)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.run(_tell_ready))
    return 0


@contextlib.contextmanager
def _bound(path: str) -> Iterator[socket.socket]:
    """Listen, and remove the socket at the end, if it is still ours."""
    with listener.locked(path):
        found = listener.bind(path)
    with found:
        made = os.lstat(path)
        yield found
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), made):
                os.unlink(path)


def _tell_ready() -> None:
    """Tell the service manager that we serve (sd_notify(3)); the variable is not for children."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(b"READY=1", f"\0{address[1:]}" if address[:1] == "@" else address)
        except OSError as error:
            log.warn(f"cannot tell {address} that the service is up: {error.strerror}")
