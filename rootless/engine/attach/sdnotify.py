"""Tell the service manager that a container is up (sd_notify(3)), or let the container tell it.

A unit of Type=notify waits for READY=1, and takes the process in MAINPID as its main process. That
is the monitor, because the command that started it ends. With --sdnotify container the application
gets the manager's socket and reports itself that it is ready; systemd accepts that with
NotifyAccess=all.
"""

from __future__ import annotations

import os

from rootless import log
from rootless.engine.request import Mount
from rootless.errors import RlessError

INSIDE = "/run/notify"  # where the application of --sdnotify container finds the socket


def started(mode: str, monitor: int) -> None:
    """Tell the manager the main process, the monitor, and, except for `container`, that all is up.

    The container runs by now, so a manager that does not listen causes only a warning.

    Args:
        mode: of --sdnotify. monitor: its pid.
    """
    import _socket

    address = os.environ["NOTIFY_SOCKET"]
    said = f"MAINPID={monitor}" + ("" if mode == "container" else "\nREADY=1")
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        channel.sendto(said.encode(), f"\0{address[1:]}" if address[:1] == "@" else address)
    except OSError as error:
        log.warn(f"cannot tell {address} that the container is up: {error.strerror}")
    finally:
        channel.close()


def socket_mount() -> Mount | None:
    """Return the mount of the manager's socket at `INSIDE`; None: there is no manager.

    Raises:
        RlessError: it is no file, so it cannot be mounted.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    if not address.startswith("/"):
        raise RlessError(
            f"--sdnotify container: {address} is not a file that can be mounted",
            "use --sdnotify conmon",
        )
    return Mount("bind", address, INSIDE)
