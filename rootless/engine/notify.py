"""Tell the service manager of $NOTIFY_SOCKET that a container is there (sd_notify(3)).

Two ways, Podman's names: `conmon`, the default: once the application runs, we say that the unit
is ready; `container`: the application says so itself, by the socket, which is bound into the
container. In both the main process of the unit is the monitor, which lives as long as the
container does and ends with it.
"""

from __future__ import annotations

import os

from rootless import log
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Spec

_VARIABLE = "NOTIFY_SOCKET"
_INSIDE = "/run/notify/notify.sock"


def bind(spec: Spec) -> None:
    """Give the application the socket (--sdnotify=container).

    Raises:
        RlessError: there is none, or it is no file.
    """
    path = os.environ.get(_VARIABLE, "")
    if not path.startswith("/"):
        raise RlessError(
            f"--sdnotify container: NOTIFY_SOCKET is {'no file' if path else 'not set'}",
            "start it from a unit with Type=notify and NotifyAccess=all",
        )
    options = ["bind", "nosuid", "nodev", "noexec"]
    mount = {"destination": _INSIDE, "type": "bind", "source": path, "options": options}
    spec["mounts"].append(mount)  # type: ignore[arg-type]
    environment = spec["process"]["env"]
    kept = [entry for entry in environment if not entry.startswith(f"{_VARIABLE}=")]
    spec["process"]["env"] = [*kept, f"{_VARIABLE}={_INSIDE}"]


def started(mode: str | None, monitor: int) -> None:
    """Say that the application runs; `monitor` is the main process from now on."""
    path = os.environ.get(_VARIABLE, "")
    if mode == "ignore" or not path:
        return
    import _socket

    message = f"MAINPID={monitor}" + ("" if mode == "container" else "\nREADY=1")
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        channel.sendto(message.encode(), f"\0{path[1:]}" if path[0] == "@" else path)
    except OSError as error:
        log.warn(f"cannot notify {path}: {error.strerror}")
    finally:
        channel.close()
