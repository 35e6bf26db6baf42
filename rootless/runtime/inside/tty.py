"""Step 6, the terminal: a pty made inside the container, its master sent to the caller.

The pty belongs to the container's own devpts, so the application sees /dev/pts/0 and cannot reach a
terminal of the host (security class 37).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as api
from rootless.linux import unix
from rootless.linux.openat2 import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Box
    from rootless.runtime.inside.mounts import Root

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_PTMX = os.makedev(5, 2)  # linux: admin-guide/devices.txt


class Terminal:
    """A pty whose master goes to the caller, and whose other end becomes the application's."""

    __slots__ = ("number", "slave")

    def __init__(self, master: int, size: Box | None, owner: int) -> None:
        """Take the other end of a new master.

        Args:
            owner: uid of the application, who gets the slave. Its group is that of the devpts.

        Raises:
            OSError: it is no master of a pty.
        """
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        self.number: int = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
        # TIOCGPTPEER opens the other end without a look at any path (Linux 4.13).
        self.slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        os.set_inheritable(self.slave, False)
        if size:
            window = struct.pack("HHHH", size["height"], size["width"], 0, 0)
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, window)
        os.fchown(self.slave, owner, -1)

    def become_stdio(self) -> None:
        """Make it the controlling terminal (of a session that we lead) and descriptors 0 to 2."""
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(self.slave, fd, inheritable=True)
        os.close(self.slave)


def make_console(root: Root, socket_fd: int, size: Box | None, owner: int) -> Terminal:
    """Make a new container's pty in its devpts, bind it to /dev/console, send its master.

    Args:
        socket_fd: a connected unix socket (runc: docs/terminals.md).
        owner: uid of the application.

    Raises:
        RlessError: no devpts in the container, or nobody listens.
    """
    try:
        master = root.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    except SyscallError as error:
        raise error.within("cannot make a terminal") from error
    try:
        terminal = Terminal(master, size, owner)
        _bind(root, terminal.number)
        unix.send(socket_fd, b"/dev/ptmx", [master])
    except OSError as error:
        raise RlessError(f"cannot make a terminal: {error.strerror}") from error
    finally:
        os.close(master)
    return terminal


def make_terminal(root_fd: int, socket_fd: int, size: Box | None, owner: int) -> Terminal:
    """Make a pty in the devpts of a running container, and send its master.

    Its processes may have put anything at that path: what is opened must be the kernel's own
    device, and is waited for by nobody (security class 27).

    Raises:
        RlessError: there is no such device.
    """
    try:
        master = openat2(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except SyscallError as error:
        raise error.within("cannot make a terminal") from error
    try:
        status = os.fstat(master)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _PTMX:
            raise RlessError("cannot make a terminal: /dev/pts/ptmx of the container is no pty")
        os.set_blocking(master, True)
        terminal = Terminal(master, size, owner)
        unix.send(socket_fd, b"/dev/ptmx", [master])
    except OSError as error:
        raise RlessError(f"cannot make a terminal: {error.strerror}") from error
    finally:
        os.close(master)
    return terminal


def _bind(root: Root, number: int) -> None:
    """Make /dev/console the same terminal, by descriptor (CVE-2025-52565)."""
    pty = root.open(f"/dev/pts/{number}")
    tree = api.open_tree(pty, b"", recursive=False)
    target = root.target("/dev/console", os.fstat(pty))
    api.move_mount(tree, target)
    for fd in (pty, tree, target):
        os.close(fd)
