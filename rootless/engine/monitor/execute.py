"""Become the program that stays with the container (helpers/monitor).

It gets its orders by a memfd, KEY NUL VALUE NUL ..., so that nothing shows in its arguments, an
empty environment, and the descriptors that the orders name.
"""

from __future__ import annotations

import os

from rootless.errors import EXIT_TOOL
from rootless.linux.process import open_own_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    Orders = list[tuple[str, str]]

_PROGRAM = "rless-monitor"
# Orders whose value is a descriptor.
FDS = (
    "listener",
    "init_fd",
    "in",
    "out",
    "err",
    "pty",
    "client",
    "client_in",
    "client_out",
    "client_err",
    "lock",
    "member",
    "connection",
    "python_fd",
    "status",
    "gate",
)
# What the interpreter is told when the monitor needs it (`errand`): sealed as by the launcher.
_START = """import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless.launch import start
start("rootless.engine.start.monitor_callbacks")"""


def interpreter() -> list[str]:
    """Return the words that start Python for the monitor, less those of the verb."""
    import sys

    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    # The launcher's words, without those that a test or a debugger has added.
    return [sys.executable, "-I", "-S", "-c", _START, os.path.dirname(package), "rless"]


def open_interpreter() -> int:
    """Return a descriptor to execute the interpreter by, if the caller could write to it; else -1.

    It runs in the container's user namespace then, for which the container's root may have
    CAP_SYS_PTRACE: /proc/PID/exe would be a way to the file (CVE-2019-5736). What is executed is
    a mount of it that is read-only, in no namespace, and so nobody's to change.

    Where it runs: with CAP_SYS_ADMIN over the mount namespace.
    """
    import sys

    from rootless.linux import mount
    from rootless.runtime.inside.process import is_own_image_writable

    if not is_own_image_writable():
        return -1
    tree_fd = mount.open_tree(-1, os.path.realpath(sys.executable), recursive=False)
    try:
        mount.mount_setattr(tree_fd, set_=mount.MOUNT_ATTR_RDONLY)
        return os.open(f"/proc/self/fd/{tree_fd}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(tree_fd)  # unmounted by this, for good


def encode(orders: Orders) -> int:
    """Return a memfd with the orders; the descriptors in them stay open over execve."""
    fd = os.memfd_create("rless-orders", 1)  # MFD_CLOEXEC
    add(fd, orders)
    return fd


def add(fd: int, orders: Orders) -> None:
    """Add orders to those in a memfd."""
    for key, value in orders:
        if key in FDS and int(value) >= 0:
            os.set_inheritable(int(value), True)
    text = "".join(f"{key}\0{value}\0" for key, value in orders)
    os.write(fd, text.encode("utf-8", "surrogateescape"))


def decode(fd: int) -> Orders:
    """Return the orders in a memfd."""
    size = os.fstat(fd).st_size
    words = os.pread(fd, size, 0).decode("utf-8", "surrogateescape").split("\0")[:-1]
    return list(zip(words[::2], words[1::2], strict=True))


def open_program() -> int:
    """Return the program, open, for `exec_monitor` and `exec_keeper`.

    It is opened before a process is started that the program is to stay with.

    Raises:
        RlessError: the installation is broken.
    """
    return open_own_program(_PROGRAM)


def exec_monitor(program_fd: int, orders_fd: int, container_id: str) -> NoReturn:
    """Stay with the container to its end, as the monitor; never return.

    Args:
        program_fd: of `open_program`. orders_fd: of `encode`.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)  # who reads the caller's streams must see their end
    os.chdir("/")
    try:
        from rootless.linux import caps

        caps.keep_over_exec()
        _execute(program_fd, orders_fd, f"rless: monitor of {container_id[:12]}")
    finally:
        os._exit(EXIT_TOOL)  # init ends with us; who waits for the container tells of that


def exec_keeper(program_fd: int, orders: Orders) -> NoReturn:
    """Become the program, as the keeper of a process of `exec`; never return."""
    try:
        _execute(program_fd, encode(orders), "rless: keeper of an exec")
    finally:
        os._exit(EXIT_TOOL)


def _execute(program_fd: int, orders_fd: int, title: str) -> NoReturn:
    os.set_inheritable(orders_fd, True)
    os.execve(program_fd, [title, str(orders_fd)], {})
