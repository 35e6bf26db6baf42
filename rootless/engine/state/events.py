"""The events of containers, images and volumes: one file, to which every command appends.

    <storage>/events      JSON, an event a line, each written by one O_APPEND write: whole lines
    <storage>/events.1    the file before it, once that had reached 1 MiB

There is no daemon to ask, so `events` reads these files. `record` is called by every start, so it
imports nothing and takes three system calls. If an event cannot be written (a full disk), it is
lost; what it reports has happened all the same.
"""

from __future__ import annotations

import os
import time

from rootless import jsontext, paths
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rootless.engine.state.container import Container
    from rootless.engine.state.records import ContainerRecord

_MOST = 1 << 20  # bytes of one file
_LONGEST = 1 << 16  # bytes of one line: labels of an image may be of any length
_KEPT = ("image", "name", "exitCode", "signal")
_MOST_LABELS = 1 << 14  # bytes of what `attributes_of` gives the monitor


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


def of_container(action: str, container: Container, /, **more: Any) -> None:
    """Append an event of a container, with Docker's attributes: its labels, image and name."""
    record(action, "container", container.id, **{**attributes_of(container.facts), **more})


def attributes_of(facts: ContainerRecord) -> dict[str, Any]:
    """Return what each event of a container tells of it; `facts` is container.json."""
    return {**(facts["labels"] or {}), "image": facts["image"], "name": facts["name"]}


def attributes_text(facts: ContainerRecord) -> str:
    """Return the same but the name as JSON without its braces: the monitor adds the rest."""
    found = {name: str(value) for name, value in attributes_of(facts).items() if name != "name"}
    text = jsontext.dumps(found)
    if len(text) > _MOST_LABELS:
        text = jsontext.dumps({"image": found["image"][:256]})
    return text[1:-1]


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
    from rootless.linux import locks

    try:
        if not locks.lock(fd, wait=False):
            return False
        if not locks.is_at(fd, file):
            return True
        os.rename(file, f"{file}.1")
    except OSError:
        return False  # somebody is at it: this line still goes into the full file
    return True


# -- reading -----------------------------------------------------------------------------------

_LOOK = 1.0  # seconds after which the file is looked at in any case
_BLIND = 0.1  # the same where inotify(7) is not to be had


def read(since: int | None, until: int | None) -> Iterator[dict[str, Any]]:
    """Yield events in the order of their times: the past ones, then each as it happens.

    Args:
        since: nanoseconds since 1970; None: what is past is left out, unless `until` is given.
        until: go on until then, which may be in the past; None: for ever.
    """
    from rootless.linux.inotify import watching

    changes = watching(os.path.dirname(path()))
    try:
        for event in follow(since, until):
            if event is not None:
                yield event
                continue
            left = _LOOK if until is None else (until - time.time_ns()) / 10**9 + 0.001
            if changes is None:
                time.sleep(max(0.0, min(_BLIND, left)))
            else:
                changes.wait(max(0.0, min(_LOOK, left)))
    finally:
        if changes is not None:
            changes.close()


def follow(since: int | None, until: int | None) -> Iterator[dict[str, Any] | None]:
    """Yield events as `read` does; None: those were all at this moment."""
    past = since is not None or until is not None
    files = [_Follower(f"{path()}.1", past), _Follower(path(), past)]
    try:
        while True:
            # Asked before reading: what was recorded until then is there.
            over = until is not None and time.time_ns() > until
            found = [event for file in files for event in file.lines()]
            found.sort(key=lambda event: int(event["time"]))
            for event in found:
                moment = int(event["time"])
                if (since is None or moment >= since) and (until is None or moment <= until):
                    yield event
            if over:
                return
            if files[1].was_renamed():
                files[0].close()
                # Somebody who had it open may still write into the older one.
                files = [files[1], _Follower(path(), True)]
                continue
            yield None
    finally:
        for file in files:
            file.close()


class _Follower:
    """Reads one file as it grows."""

    def __init__(self, name: str, past: bool) -> None:
        self.name = name
        self.past = past
        self.fd = -1
        self.rest = b""
        self._open()
        self.past = True  # a file that comes later is new

    def _open(self) -> None:
        try:
            self.fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        if not self.past:
            os.lseek(self.fd, 0, os.SEEK_END)

    def lines(self) -> list[dict[str, Any]]:
        """Return the events that were written since the last time."""
        if self.fd < 0:
            if not self.name.endswith(".1"):
                self._open()
            if self.fd < 0:
                return []
        found = []
        while data := os.read(self.fd, _MOST):
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                try:
                    event = jsontext.loads(line)
                    if isinstance(event["time"], int) and isinstance(event["attributes"], dict):
                        found.append(event)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # cut by a full disk
        return found

    def was_renamed(self) -> bool:
        """Tell whether another file has the name now."""
        if self.fd < 0:
            return False
        try:
            return not os.path.samestat(os.stat(self.name), os.fstat(self.fd))
        except FileNotFoundError:
            return False  # just between two files

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
