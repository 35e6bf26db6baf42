"""The descriptors between the foreground process, the monitor and the application.

The start process makes all of them, sends the foreground process its ends, and becomes the monitor.
Init is a clone and has its ends already. A pipe ends only when every copy of its other end is
closed.

    application                    monitor                      foreground process
      0  <------ in ------------- app_in        client_in <-- stdin
      1  ------- out -----------> app_out      client_out --> stdout
      2  ------- err -----------> app_err      client_err --> stderr
      or a pty -----------------> (console)        client <-> link
    init, before it is the application:
      status ------------------> status
      start FIFO <--------------- start_fifo
"""

from __future__ import annotations

import os

from rootless.linux.unix import SOCK_SEQPACKET, SOCK_STREAM, pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class Pipes:
    """All descriptors of one start; -1: there is none.

    Attributes:
        status, init_status: the channel by which init reports (`sync`).
        start_fifo, init_start_fifo: the FIFO that tells init to execute the application.
        link, client: the foreground process as the monitor's first client (`monitor_client`).
        stdin, stdout, stderr: the foreground process's ends of its pipes to the monitor.
        client_in, client_out, client_err: the monitor's ends of them.
        app_in, app_out, app_err: the monitor's ends of the application's pipes.
        stdio: the application's descriptors 0 to 2; None with a terminal.
        console, console_socket: init's and the monitor's end of the socket that carries the pty's
            master.
    """

    _FOREGROUND = ("link", "stdin", "stdout", "stderr")
    _MONITOR = (
        *("status", "start_fifo", "client", "client_in", "client_out", "client_err"),
        *("app_in", "app_out", "app_err", "console_socket"),
    )
    _INIT = ("init_status", "init_start_fifo", "console")

    def __init__(
        self, tty: bool, interactive: bool, attach: Collection[str], foreground: bool = True
    ) -> None:
        """Make them.

        Args:
            interactive: the application's standard input stays open.
            attach: the streams that the foreground process passes on: stdin, stdout, stderr.
            foreground: there is such a process.
        """
        for name in (*self._FOREGROUND, *self._MONITOR, *self._INIT):
            setattr(self, name, -1)
        self.stdio: tuple[int, int, int] | None = None
        self.status, self.init_status = os.pipe()
        self.init_start_fifo, self.start_fifo = os.pipe()
        if foreground:
            self.link, self.client = pair(SOCK_SEQPACKET)
        if "stdin" in attach:
            self.client_in, self.stdin = os.pipe()
        if "stdout" in attach or (tty and "stderr" in attach):
            self.stdout, self.client_out = os.pipe()
        if "stderr" in attach and not tty:
            self.stderr, self.client_err = os.pipe()
        if tty:
            self.console_socket, self.console = pair(SOCK_STREAM)
            return
        if interactive:
            stdin, self.app_in = os.pipe()
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.app_out, stdout = os.pipe()
        self.app_err, stderr = os.pipe()
        self.stdio = (stdin, stdout, stderr)

    status: int
    init_status: int
    start_fifo: int
    init_start_fifo: int
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

    def close_foreground_ends(self) -> None:
        """Close the foreground process's ends, once that has them."""
        self._close(self._FOREGROUND)

    def close_init_ends(self) -> None:
        """Close what only the application shall hold."""
        self._close(self._INIT)
        for fd in self.stdio or ():
            os.close(fd)
        self.stdio = None

    def close_all(self) -> None:
        """Close everything that is still open."""
        self.close_init_ends()
        self.close_foreground_ends()
        self._close(self._MONITOR)
