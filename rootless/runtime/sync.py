"""The protocol between the parent and the container's init.

    init                                parent
      |  <------------------- GO  ------  |   id maps written, cgroup entered
      |  -- HOOKS -------------------->  |   (where a config has some) the mounts are made
      |  <------------------- GO  ------  |   the runtime's hooks have run
      |  -- READY(report) ------------->  |   the root is entered, all but exec is done
      |  <------------- (start FIFO) ---  |   `start`: a byte on the pipe or FIFO
      |  -- end of file --------------->  |   execve closed the pipe: the application runs

or at any point, instead of the next message:

      |  -- FAILED(error) ------------->  |   and init is gone

A frame is one byte of kind, four of length (little endian), and a JSON list of one.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux.process import read_exactly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GO = b"g"
START = b"s"
READY = b"R"
HOOKS = b"H"
FAILED = b"F"
_KINDS = (READY, HOOKS, FAILED)
_LIMIT = 16 << 20  # bytes; a report holds mountinfo, which can be long


class UnexpectedMessageError(RlessError):
    """A message arrived out of order; the text names both sides."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"runtime: parent expected {expected} from init, got {got}")


def send(fd: int, kind: bytes, payload: Any) -> None:
    """Write one frame."""
    body = jsontext.dumps([payload]).encode()
    data = memoryview(kind + len(body).to_bytes(4, "little") + body)
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int) -> tuple[bytes, Any] | None:
    """Read one frame; None at the end of the file.

    Raises:
        UnexpectedMessageError: the frame is cut short or not of this protocol.
    """
    header = read_exactly(fd, 5)
    if not header:
        return None
    kind, length = header[:1], int.from_bytes(header[1:], "little")
    if len(header) != 5 or kind not in _KINDS or length > _LIMIT:
        raise UnexpectedMessageError("a frame", repr(header))
    body = read_exactly(fd, length)
    if len(body) != length:
        raise UnexpectedMessageError(f"{length} bytes", f"{len(body)}, then the end")
    return kind, jsontext.loads(body)[0]


def error_payload(error: RlessError) -> list[Any]:
    """Return an error as it travels in FAILED."""
    return [error.message, error.hint, error.exit_code, error.kind]


def expect_ready(fd: int, hooks: Callable[[], None] | None = None) -> dict[str, Any]:
    """Wait for READY and return its report.

    Args:
        hooks: called at HOOKS.

    Raises:
        RlessError: what init reports in FAILED.
        UnexpectedMessageError: init ended without a message (it was killed).
    """
    frame = receive(fd)
    if frame is None:
        raise UnexpectedMessageError("READY", "the end: init was killed")
    kind, payload = frame
    if kind == HOOKS and hooks is not None:
        hooks()
        return expect_ready(fd)
    if kind == FAILED:
        raise RlessError(*payload)
    report: dict[str, Any] = payload
    return report


def expect_exec(fd: int) -> None:
    """Wait until init has executed the application.

    Raises:
        RlessError: execve failed; the exit code is 126 or 127.
    """
    frame = receive(fd)
    if frame is None:
        return
    kind, payload = frame
    if kind != FAILED:
        raise UnexpectedMessageError("the end or FAILED", repr(kind))
    raise RlessError(*payload)
