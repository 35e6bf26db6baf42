"""The descriptors between the command, the monitor and the application, made before the fork.

Each one belongs to one side. The monitor closes the command's after the fork and the command
the monitor's: a pipe ends only when every copy of its other end is closed.

    application                    monitor                      command
      0  <------ in ------------- app_in        client_in <-- stdin
      1  ------- out -----------> app_out      client_out --> stdout
      2  ------- err -----------> app_err      client_err --> stderr
      or a pty -----------------> (console)        client <-> link
    init, before it is the application:
      status ------------------------------------------------> status
      gate <-------------------------------------------------- gate
                                  monitor_plan <------------ plan
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class Wires:
    """All descriptors of one start; -1 for what it does not have.

    Attributes:
        plan, monitor_plan: what the command has found out, once (`child`).
        result, monitor_result: frames from the monitor, until it waits for the application.
        status, init_status: what init says (`sync`): first to the monitor, of its execve to the
            command; each of them has a copy of the reading end.
        gate, init_gate: the start gate of init.
        link, client: the command as the monitor's first client (`monitor_client`).
        stdin, stdout, stderr: the command's ends of its pipes to the monitor.
        client_in, client_out, client_err: the monitor's ends of them.
        app_in, app_out, app_err: the monitor's ends of the application's pipes.
        stdio: the application's descriptors 0 to 2; None with a terminal.
        console, console_socket: init's end, and the monitor's, of what gives it the pty's master.
    """

    _COMMAND = ("plan", "result", "gate", "link", "stdin", "stdout", "stderr")
    _MONITOR = (
        *("monitor_plan", "monitor_result", "client", "client_in", "client_out", "client_err"),
        *("app_in", "app_out", "app_err", "console_socket"),
    )
    _INIT = ("init_status", "init_gate", "console")

    def __init__(
        self, tty: bool, interactive: bool, attach: Collection[str], link: bool = False
    ) -> None:
        """Make them.

        Args:
            interactive: the application's standard input stays open.
            attach: the streams that the command passes on: stdin, stdout, stderr.
            link: make a link even if there are none.
        """
        for name in ("status", *self._COMMAND, *self._MONITOR, *self._INIT):
            setattr(self, name, -1)
        self.stdio: tuple[int, int, int] | None = None
        self.monitor_plan, self.plan = os.pipe()
        self.result, self.monitor_result = os.pipe()
        self.status, self.init_status = os.pipe()
        self.init_gate, self.gate = os.pipe()
        if attach or link:
            self.link, self.client = _pair(5)  # SOCK_SEQPACKET
        if "stdin" in attach:
            self.client_in, self.stdin = os.pipe()
        if "stdout" in attach or (tty and "stderr" in attach):
            self.stdout, self.client_out = os.pipe()
        if "stderr" in attach and not tty:
            self.stderr, self.client_err = os.pipe()
        if tty:
            self.console_socket, self.console = _pair(1)  # SOCK_STREAM
            return
        if interactive:
            stdin, self.app_in = os.pipe()
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.app_out, stdout = os.pipe()
        self.app_err, stderr = os.pipe()
        self.stdio = (stdin, stdout, stderr)

    plan: int
    monitor_plan: int
    result: int
    monitor_result: int
    status: int
    init_status: int
    gate: int
    init_gate: int
    link: int
    client: int
    stdin: int
    stdout: int
    stderr: int
    client_in: int
    client_out: int
    client_err: int
    app_in: int
    app_out: int
    app_err: int
    console: int
    console_socket: int

    def _close(self, names: tuple[str, ...]) -> None:
        for name in names:
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def close_command_ends(self) -> None:
        """Close what the monitor must not keep; in the monitor."""
        self._close(self._COMMAND)

    def close_monitor_ends(self) -> None:
        """Close what the command must not keep; in the command."""
        self.close_init_ends()
        self._close(self._MONITOR)

    def close_init_ends(self) -> None:
        """Close what only the application shall hold."""
        self._close(self._INIT)
        for fd in self.stdio or ():
            os.close(fd)
        self.stdio = None

    def close_all(self) -> None:
        """Close everything that is still open."""
        self.close_monitor_ends()
        self.close_command_ends()
        self._close(("status",))


def _pair(kind: int) -> tuple[int, int]:
    # Not the module `socket`, which takes 8 ms to import.
    import _socket

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    return ours.detach(), theirs.detach()


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
