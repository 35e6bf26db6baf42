"""Read a container's log from the journal, by journalctl(1): the log driver journald.

The monitor writes a message for each line, with Docker's fields. Only journalctl knows the format
of the journal's files. It prints JSON, in which a message that is not UTF-8 is a list of bytes.
"""

from __future__ import annotations

import os
import select
import subprocess
from typing import TYPE_CHECKING, Any

from rootless import jsontext
from rootless.engine.timestamps import stamp_of
from rootless.errors import RlessError
from rootless.linux import programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rootless.engine.query.logs import Batch, Frame

_POLL = 0.2  # seconds
_QUIET = 10  # polls without a message after the end: journald takes its time on a busy machine
_ERROR = "3"  # PRIORITY of standard error, as Docker writes it


def frames(container_id: str, alive: Callable[[], bool] | None) -> Iterator[Batch]:
    """Yield what the journal has of a container; `alive`: go on until it says no.

    Raises:
        RlessError: there is no journalctl, or it failed.
    """
    program = programs.find("journalctl")
    if program is None:
        raise RlessError(
            "the log is in the systemd journal, and there is no journalctl here",
            "make the container with --log-driver local",
            1,
        )
    argv = [program, "--quiet", "--no-pager", "--all", "--output=json"]
    if alive is not None:
        argv += ["--follow", "--lines=all"]
    process = subprocess.Popen(
        # Any user may write any field; _UID is journald's own finding.
        [*argv, f"_UID={os.getuid()}", f"CONTAINER_ID_FULL={container_id}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield from _read(process.stdout.fileno(), alive)
        if alive is None and process.wait() != 0:
            why = process.stderr.read(4096).decode("utf-8", "replace").strip()
            raise RlessError(f"journalctl failed: {why or process.returncode}", exit_code=1)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _read(fd: int, alive: Callable[[], bool] | None) -> Iterator[Batch]:
    rest = b""
    quiet = 0
    while True:
        if alive is not None and not select.select([fd], [], [], _POLL)[0]:
            yield None
            quiet = 0 if alive() else quiet + 1
            if quiet >= _QUIET:
                return
            continue
        data = os.read(fd, 1 << 20)
        if not data:
            yield None
            return
        *lines, rest = (rest + data).split(b"\n")
        yield [found for line in lines if (found := frame(line))]


def frame(line: bytes) -> Frame | None:
    """Return the frame of one line of `journalctl -o json`; None: it is none."""
    try:
        entry: dict[str, Any] = jsontext.loads(line)
        message = entry.get("MESSAGE") or ""
        text = bytes(message) if isinstance(message, list) else str(message).encode()
        stamp = stamp_of(int(entry["__REALTIME_TIMESTAMP"]) * 1000)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if entry.get("CONTAINER_PARTIAL_MESSAGE") != "true":
        text += b"\n"
    return stamp, 2 if entry.get("PRIORITY") == _ERROR else 1, text
