"""The life of the service: where its socket is, how it begins and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from rootless import paths
from rootless.errors import RlessError
from rootless.service.endpoints import lifecycle
from rootless.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 107  # bytes of a socket's path (unix(7))


def default_socket() -> str:
    """Return where the socket is: in the runtime directory, else in the storage.

    Raises:
        RlessError: no directory for it can be made.
    """
    return f"{paths.runtime_root()}/docker.sock"


def serve(path: str, idle: float) -> int:
    """Serve on a socket until a signal comes, or nobody has been there for long enough.

    Args:
        idle: seconds; 0: for ever.

    Raises:
        RlessError: the socket cannot be made, or another service has it.
    """
    path = os.path.abspath(path)
    with _listener(path) as listener:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        lifecycle.socket_path = path
        server = Server(listener, idle)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.run())
    return 0


@contextlib.contextmanager
def _listener(path: str) -> Iterator[socket.socket]:
    """Listen, and remove the socket at the end, if it is still ours.

    Raises:
        RlessError: its path is too long, its directory is open to others, or a service answers.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise RlessError(
            f"the socket's path has more than {_LONGEST} bytes: {path}",
            "give another one, or move the storage (RLESS_STORAGE)",
        )
    paths.private_dir(os.path.dirname(path), "give the path of a socket in a directory of yours")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise RlessError(f"cannot make the socket {path}: {error.strerror}") from error
        finally:
            os.umask(mask)
        listener.listen(1024)
        listener.setblocking(False)
        made = os.lstat(path)
        yield listener
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), made):
                os.unlink(path)
    finally:
        listener.close()


def _make_room(path: str) -> None:
    """Remove the socket of a service that was killed; one that answers is left alone."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise RlessError(f"{path} is there already, and is no socket", "give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise RlessError(f"cannot connect to {path}: {error.strerror}") from error
    raise RlessError(f"a service answers at {path} already", "use that one, or give another path")
