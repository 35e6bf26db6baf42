"""Unix sockets without the module `socket`, which takes 8 ms to import (unix(7))."""

from __future__ import annotations

from sys import byteorder

SOCK_STREAM = 1
SOCK_SEQPACKET = 5

_MSG_CMSG_CLOEXEC = 0x40000000
_INT = 4


def pair(kind: int) -> tuple[int, int]:
    """Return two sockets that are connected to each other (socketpair(2)), close-on-exec."""
    import _socket

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    return ours.detach(), theirs.detach()


def receive_fd(socket_fd: int) -> int:
    """Receive one descriptor over a unix socket (SCM_RIGHTS, unix(7)), and close the socket.

    Raises:
        OSError: none came.
    """
    import _socket

    channel = _socket.socket(fileno=socket_fd)
    try:
        # Not CMSG_SPACE: with what that fills up a second one would fit, which nobody closed.
        _, ancillary, _, _ = channel.recvmsg(64, _socket.CMSG_LEN(_INT), _MSG_CMSG_CLOEXEC)
    finally:
        channel.close()
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(data) == _INT:
            # Not the module `array`, which is a library of its own: 1.5 ms.
            return int.from_bytes(data, byteorder)
    raise OSError(71, "no descriptor was received")
