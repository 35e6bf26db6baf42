"""Unix sockets without the module `socket`, which takes 8 ms to import (unix(7))."""

from __future__ import annotations

import _socket
import os
from sys import byteorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCK_STREAM = 1
SOCK_SEQPACKET = 5
MSG_DONTWAIT = 0x40

_MSG_CMSG_CLOEXEC = 0x40000000
_INT = 4


def pair(kind: int) -> tuple[int, int]:
    """Return two sockets that are connected to each other (socketpair(2)), close-on-exec."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    return ours.detach(), theirs.detach()


def peer(channel: _socket.socket) -> tuple[int, int]:
    """Return (pid, uid) at the other end of a unix socket (SO_PEERCRED, unix(7)).

    For a client that is who has begun to listen; pid 0: it is in another pid namespace.

    Raises:
        OSError: it is no socket that is connected.
    """
    found = channel.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * _INT)
    return int.from_bytes(found[:_INT], byteorder), int.from_bytes(
        found[_INT : 2 * _INT], byteorder
    )


def send(fd: int, message: bytes, fds: Sequence[int]) -> int:
    """Send a message with descriptors (SCM_RIGHTS), which stay ours; return how much was sent.

    Raises:
        OSError: EPIPE: nobody can receive it any more.
    """
    channel = _socket.socket(fileno=fd)
    try:
        # Not the module `array`: it registers itself with collections.abc, 1.5 ms.
        packed = b"".join(one.to_bytes(_INT, byteorder) for one in fds)
        return channel.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    finally:
        channel.detach()


def receive(fd: int, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive a message of up to `size` bytes, and the descriptors that come with it.

    Args:
        most: descriptors that are taken; what is more is closed by the kernel.
        flags: MSG_*, as of recvmsg(2).

    Raises:
        BlockingIOError: with MSG_DONTWAIT: there is none.
        OSError: ECONNRESET: the other side has ended without having read all of ours. Told once.
    """
    channel = _socket.socket(fileno=fd)
    try:
        # Not CMSG_SPACE: with what that fills up one more would fit, which nobody closed.
        space = _socket.CMSG_LEN(most * _INT)
        message, ancillary, _, _ = channel.recvmsg(size, space, flags | _MSG_CMSG_CLOEXEC)
    finally:
        channel.detach()
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
    packed = b"".join(data for level, kind, data in ancillary if (level, kind) == rights)
    places = range(0, len(packed) - _INT + 1, _INT)
    return message, [int.from_bytes(packed[at : at + _INT], byteorder) for at in places]


def receive_fd(socket_fd: int) -> int:
    """Receive one descriptor over a unix socket, and close the socket.

    Raises:
        OSError: none came.
    """
    try:
        _, fds = receive(socket_fd, 64, 1)
    finally:
        os.close(socket_fd)
    if not fds:
        raise OSError(71, "no descriptor was received")
    return fds[0]
