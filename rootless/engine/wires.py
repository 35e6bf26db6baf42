"""The pipes between the command, the monitor and the application, made before the fork.

Each descriptor belongs to one side. The monitor closes the command's after the fork and the
command the monitor's: a pipe ends only when every copy of its other end is closed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.request import RunRequest


class Wires:
    """All descriptors of one container; -1 for what it does not have.

    Attributes:
        result, monitor_result: frames from the monitor to the command.
        orders, monitor_orders: bytes from the command to the monitor.
        gate, init_gate: the start gate of init.
        stdin, stdout, stderr: the command's ends of the application's pipes.
        socket: the command's end of what gives it the pty's master.
        stdio: the application's descriptors 0 to 2; None with a terminal.
        console: init's end of `socket`.
        log: what the monitor of a detached container copies to its log.
        log_socket: what gives it the pty's master for that.
    """

    def __init__(self, request: RunRequest) -> None:
        self.stdin = self.stdout = self.stderr = self.socket = -1
        self.console = self.log = self.log_socket = -1
        self.stdio: tuple[int, int, int] | None = None
        self._held = -1  # the open end of a detached container's standard input
        self.result, self.monitor_result = os.pipe()
        self.monitor_orders, self.orders = os.pipe()
        self.init_gate, self.gate = os.pipe()
        if request.tty:
            # Not the module `socket`, which takes 8 ms to import.
            import _socket

            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self.console = theirs.detach()
            if request.detach:
                self.log_socket = ours.detach()
            else:
                self.socket = ours.detach()
            return
        if request.detach:
            self._make_detached(request)
            return
        if request.interactive:
            stdin, self.stdin = os.pipe()
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self.stdio = (stdin, stdout, stderr)

    def _make_detached(self, request: RunRequest) -> None:
        if request.interactive:
            stdin, self._held = os.pipe()
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if request.log_driver == "none":
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            self.stdio = (stdin, null, null)
            return
        self.log, writer = os.pipe()
        self.stdio = (stdin, writer, writer)

    def _close(self, *names: str) -> None:
        for name in names:
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
            setattr(self, name, -1)

    def close_command_ends(self) -> None:
        """Close what the monitor must not keep; in the monitor."""
        self._close("result", "orders", "gate", "stdin", "stdout", "stderr", "socket")

    def close_monitor_ends(self) -> None:
        """Close what the command must not keep; in the command."""
        self.close_init_ends()
        self._close("monitor_result", "monitor_orders", "log", "log_socket", "_held")

    def close_init_ends(self) -> None:
        """Close what only the application shall hold."""
        self._close("init_gate", "console")
        for fd in set(self.stdio or ()):
            os.close(fd)
        self.stdio = None

    def close_all(self) -> None:
        """Close everything that is still open."""
        self.close_monitor_ends()
        self.close_command_ends()


def receive_fd(socket_fd: int) -> int:
    """Receive one descriptor over a unix socket (SCM_RIGHTS, unix(7)), and close the socket.

    Raises:
        OSError: none came.
    """
    import _socket
    import array

    channel = _socket.socket(fileno=socket_fd)
    try:
        size = array.array("i").itemsize
        _, ancillary, _, _ = channel.recvmsg(64, _socket.CMSG_SPACE(size), 0x40000000)
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % size])
    finally:
        channel.close()
    if not fds:
        raise OSError(71, "no descriptor was received")
    return fds[0]
