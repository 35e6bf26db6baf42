"""What happened to containers, images and volumes: one file, appended to by whoever acts.

    <storage>/events      JSON, an event a line, each written by one O_APPEND write: whole lines
    <storage>/events.1    the file before it, once that had reached 1 MiB

There is no daemon that could be asked, so `events` reads these files. `record` is on the path
of every start: it loads nothing and costs three system calls. An event that cannot be written
(a full disk) is lost: what it tells of has happened all the same.
"""

from __future__ import annotations

import os
import time

from rootless import jsontext, paths
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST = 1 << 20  # bytes of one file
_LONGEST = 1 << 16  # bytes of one line: labels of an image may be of any length
_KEPT = ("image", "name", "exitCode", "signal")


def path() -> str:
    """Return the path of the file that events are appended to."""
    return f"{paths.storage_root()}/events"


def record(action: str, kind: str, identifier: str, /, **attributes: Any) -> None:
    """Append an event; never raises.

    Args:
        action: Docker's word: "start", "die", "health_status: healthy".
        kind: "container", "image" or "volume".
        identifier: the id of the container or image, the name of the volume.
        attributes: Docker's attributes: image, name, exitCode, labels. A label may have any
            name, so the three above are by position only.
    """
    event = {
        "time": time.time_ns(),
        "type": kind,
        "action": action,
        "id": identifier,
        "attributes": {name: str(value) for name, value in attributes.items()},
    }
    try:
        line = jsontext.dumps(event).encode()
        if len(line) > _LONGEST:
            short = {name: str(attributes[name])[:256] for name in _KEPT if name in attributes}
            line = jsontext.dumps({**event, "attributes": short}).encode()
        _append(path(), line + b"\n")
    except (OSError, RlessError, ValueError, TypeError):
        pass  # told of nowhere: the act itself has succeeded


def _append(file: str, line: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(file, flags, 0o600)
    try:
        if os.fstat(fd).st_size >= _MOST and _rotate(file, fd):
            os.close(fd)
            fd = -1
            fd = os.open(file, flags, 0o600)
        os.write(fd, line)
    finally:
        if fd >= 0:
            os.close(fd)


def _rotate(file: str, fd: int) -> bool:
    """Make `file` the older one, unless another does or did: of two, one may rename."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(file).st_ino != os.fstat(fd).st_ino:
            return True
        os.rename(file, f"{file}.1")
    except OSError:
        return False  # somebody is at it: this line still goes into the full file
    return True
