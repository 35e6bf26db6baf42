"""Answer system calls that a seccomp filter notifies of (seccomp_unotify(2), Linux 5.0).

A call is a copy of numbers. What its pointers lead to can change while it is looked at, so an
answer may let a call go on only where the kernel's own checks are all that guards it.
"""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif, with struct seccomp_data
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_RECEIVE = 0xC050_2100  # _IOWR('!', 0, struct seccomp_notif)
_SEND = 0xC018_2101  # _IOWR('!', 1, struct seccomp_notif_resp)
_IS_VALID = 0x4008_2102  # _IOW('!', 2, __u64)
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5
_PATH_MAX = 4096


class Call:
    """A system call that waits for its answer.

    Attributes:
        pid: of the thread, as the reader's /proc has it. number, arch: AUDIT_ARCH_* tells whose
            number it is. args: six registers.
    """

    __slots__ = ("_listener", "arch", "args", "id", "number", "pid")

    def __init__(self, listener: int, data: bytes | bytearray) -> None:
        self._listener = listener
        self.id, self.pid, _, self.number, self.arch, _, *self.args = _NOTIFICATION.unpack(data)

    def is_valid(self) -> bool:
        """Tell whether it still waits: only then was it the thread that a look at `pid` showed."""
        try:
            ioctl(self._listener, _IS_VALID, self.id.to_bytes(8, "little"))
        except OSError:
            return False
        return True

    def text(self, address: int) -> bytes:
        """Return the string at an address of the caller's memory.

        Raises:
            OSError: EFAULT, ENAMETOOLONG, or the thread has gone.
        """
        found, zero, _ = self.memory(address, _PATH_MAX).partition(b"\0")
        if not zero:
            raise OSError(errno.ENAMETOOLONG, "file name too long")
        return found

    def memory(self, address: int, size: int) -> bytes:
        """Return up to so many bytes of the caller's memory, fewer where that ends.

        Raises:
            OSError: EFAULT, or the thread has gone.
        """
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, address)
        except (OSError, OverflowError):
            raise OSError(errno.EFAULT, "bad address") from None
        finally:
            os.close(fd)

    def answer(self, error: int = 0) -> None:
        """Let it return 0, or fail with an errno."""
        self._send(-error, 0)

    def go_on(self) -> None:
        """Let the kernel do it."""
        self._send(0, _CONTINUE)

    def _send(self, error: int, flags: int) -> None:
        try:
            ioctl(self._listener, _SEND, bytearray(_ANSWER.pack(self.id, 0, error, flags)))
        except OSError as failed:
            if failed.errno != errno.ENOENT:  # a signal has ended the call
                raise


def calls(listener: int) -> Iterator[Call]:
    """Yield one call after the other; it does not end before its process is killed.

    Args:
        listener: the descriptor of a filter.
    """
    while True:
        data = bytearray(_NOTIFICATION.size)
        try:
            ioctl(listener, _RECEIVE, data)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):
                raise
            continue
        yield Call(listener, data)


def numbers(names: tuple[str, ...]) -> dict[int, str]:
    """Return the native numbers of system calls, of those that there are here."""
    from rootless.linux import libseccomp

    found = ((libseccomp.resolve(name), name) for name in names)
    return {number: name for number, name in found if number is not None and number >= 0}
