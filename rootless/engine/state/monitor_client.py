"""Talk to the monitor of a container: one message a datagram (see helpers/monitor).

The socket is in the container's directory, which only its owner can enter, and each side checks the
other's credentials.
"""

from __future__ import annotations

import os
import select
import time

from rootless.errors import CONFLICT, RlessError, escape
from rootless.linux import unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.state.container import Container

_SOCKET = "monitor"
_LONGEST = 4096


def address(directory_fd: int) -> str:
    """Return the socket's path by descriptor: that of the directory may be too long for one."""
    return f"/proc/self/fd/{directory_fd}/{_SOCKET}"


def listen(directory: str) -> int:
    """Make the socket in a container's directory, and return it listening.

    Raises:
        RlessError: its file system holds no sockets, as sshfs.
    """
    import _socket

    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        try:
            os.unlink(_SOCKET, dir_fd=directory_fd)
        except FileNotFoundError:
            pass  # of an earlier start
        try:
            channel.bind(address(directory_fd))
        except OSError as error:
            what = f"cannot make a socket in {escape(directory)}: {error.strerror}"
            raise RlessError(what, "set RLESS_STORAGE to a local directory") from error
        channel.listen(64)
        return channel.detach()
    finally:
        channel.close()
        os.close(directory_fd)


def connect(container: Container) -> Client | None:
    """Connect to the monitor of a container; None: there is none that answers."""
    import _socket

    try:
        directory_fd = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        channel.connect(address(directory_fd))
        if unix.peer(channel)[1] != os.getuid():
            return None
        return Client(channel.detach())
    except OSError:
        return None
    finally:
        channel.close()
        os.close(directory_fd)


class Client:
    """One connection to a monitor.

    Attributes:
        fd: readable when the monitor has sent something, or has gone.
        code: the container's exit code, once the monitor has sent it.
        begun: the monitor has reported that the application runs.
        failed: why it does not run: message, hint, exit code; None: not known.
        gone: the monitor has closed the connection; without a code it was killed.
    """

    __slots__ = ("_answers", "begun", "code", "failed", "fd", "gone")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.code: int | None = None
        self.begun = False
        self.failed: list[Any] | None = None
        self.gone = False
        self._answers: dict[bytes, int] = {}

    def _send(self, message: bytes) -> bool:
        try:
            os.write(self.fd, message)
        except OSError:
            return False  # it has gone, and `hear` tells
        return True

    def hear(self) -> None:
        """Read one message of the monitor; waits until there is one."""
        try:
            message = os.read(self.fd, _LONGEST)
        except ConnectionResetError:
            return  # it has ended with words of ours unread; told once, before its last ones
        except OSError:
            message = b""
        kind, rest = message[:1], message[1:]
        if not message:
            self.gone = True
        elif kind == b"X":
            self.code = int.from_bytes(rest, "little")
        elif kind == b"B":
            self.begun = True
        elif kind == b"F":
            from rootless import jsontext

            self.failed = jsontext.loads(rest)
        else:
            self._answers[kind] = rest[0] if rest else 0

    def _answer(self, kind: bytes) -> int:
        """Wait for an answer; return its errno, ESRCH where the container has ended."""
        while kind not in self._answers:
            if self.gone or self.code is not None:
                return 3
            self.hear()
        return self._answers.pop(kind)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the container has ended and all is noted; return its exit code.

        Args:
            timeout: seconds; None: for ever.

        Returns:
            None: it has not ended in time, or the monitor was killed (`gone`).
        """
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.code is None and not self.gone:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poll.poll(None if left is None else 1000 * left):
                return None
            self.hear()
        return self.code

    def forward(self, number: int) -> None:
        """Signal the container's first process, without waiting for the answer."""
        self._send(b"K" + bytes([number]))

    def signal(self, number: int) -> bool:
        """Signal the container's first process, whoever it belongs to.

        Returns:
            False: it is not the application yet, which then gets it as its first.

        Raises:
            RlessError: it has ended.
        """
        self._answers.pop(b"k", None)
        self.forward(number)
        error = self._answer(b"k")
        if error == 3:
            raise RlessError("the container is not running", exit_code=1, kind=CONFLICT)
        if error not in (0, 11):
            raise RlessError(f"cannot send signal {number}: {os.strerror(error)}", exit_code=1)
        return error == 0

    def stop_restarts(self) -> None:
        """Tell it that the user stops the container: its restart policy ends."""
        self._send(b"S")

    def set_restart(self, policy: dict[str, object]) -> None:
        """Tell it another restart policy: {"name": ..., "max": ...}."""
        from rootless import jsontext

        self._send(b"U" + jsontext.dumps({"restart": policy}).encode())

    def rename(self, name: str) -> None:
        """Tell it the container's new name."""
        self._send(b"N" + name.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the container's terminal."""
        self._send(b"W" + rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    def let_go(self) -> None:
        """Leave the container alone: from now on our end is not its end."""
        self._send(b"D")

    def attach(self, stdin: int, stdout: int, stderr: int) -> None:
        """Give it pipes: copies of what the application writes go there, `stdin` is typed.

        Args:
            stdin: the reading end of a pipe, or -1. stdout, stderr: writing ends of pipes.

        Raises:
            RlessError: the container has ended.
        """
        fds = [fd for fd in (stdin, stdout, stderr) if fd >= 0]
        self._send_fds(b"A" + bytes([stdin >= 0]), fds)
        if error := self._answer(b"a"):
            why = "it has ended" if error == 3 else os.strerror(error)
            raise RlessError(f"cannot attach to the container: {why}", exit_code=1)

    def join(self, pidfd: int) -> int:
        """Have a process counted as one that has joined; return an errno, ESRCH: it ends."""
        self._send_fds(b"J", [pidfd])
        return self._answer(b"j")

    def _send_fds(self, message: bytes, fds: list[int]) -> None:
        try:
            unix.send(self.fd, message, fds)
        except OSError:
            pass  # it has gone

    def close(self) -> None:
        """Close the connection."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
