"""Netlink: requests to the kernel's network code, and its answers (netlink(7)).

This package has only the requests that a start sends. Importing pyroute2 takes 90 ms, as long as
the rest of a start on a bridge (docs/decisions/0011-bridges.md); `rootless.network.interfaces` uses
it for everything else. The tests check with pyroute2 what this code made.
"""

from __future__ import annotations

import fcntl
import os

from rootless.errors import SyscallError
from rootless.linux.call import failed, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import struct
    from collections.abc import Collection, Iterable, Sequence
else:
    # The C module that `struct` consists of: a file less to look for, 0.2 ms.
    import _struct as struct

ROUTE, NETFILTER = 0, 12
F_REQUEST, F_ACK, F_EXCL, F_CREATE, F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800

_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_AF_NETLINK, _SOCK_RAW = 16, 3
_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_NLMSG_ERROR = 2
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ANSWER_SIZE = 65536


class Message:
    """One request.

    Attributes:
        name: what an error shall call it.
        ignored: errors that mean it is done already, or need not be.
    """

    __slots__ = ("body", "flags", "ignored", "kind", "name")

    def __init__(
        self, name: str, kind: int, flags: int, body: bytes, ignored: Collection[int] = ()
    ) -> None:
        self.name = name
        self.kind = kind
        self.flags = flags
        self.body = body
        self.ignored = ignored


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """Return an attribute (struct nlattr); a number is of 32 bits, a text ends in NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, attributes: Iterable[bytes]) -> bytes:
    """Return an attribute of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def call(messages: Sequence[Message], family: int = ROUTE) -> None:
    """Send requests in one go, and wait until each has been acknowledged; none: nothing is done.

    Where it runs: in the network namespace that they are about, with CAP_NET_ADMIN there.

    Raises:
        SyscallError: the first error that a request does not ignore, with its name.
    """
    if not messages:
        return  # the kernel refuses an empty write
    socket_fd: int = libc.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, family)
    if socket_fd == -1:
        raise failed("socket(AF_NETLINK)")
    try:
        os.write(socket_fd, b"".join(map(_encode, messages, range(len(messages)))))
        waited = {number for number, one in enumerate(messages) if one.flags & F_ACK}
        while waited:
            answer = os.read(socket_fd, _ANSWER_SIZE)
            offset = 0
            while offset < len(answer):
                length, kind, _, number, _ = _HEADER.unpack_from(answer, offset)
                if kind == _NLMSG_ERROR:  # an acknowledgement is error 0
                    code = -struct.unpack_from("=i", answer, offset + _HEADER.size)[0]
                    if code and code not in messages[number].ignored:
                        raise SyscallError(f"netlink({messages[number].name})", code)
                    waited.discard(number)
                offset += (length + 3) & ~3
    except OSError as error:
        raise SyscallError("netlink", error.errno or 0) from error
    finally:
        os.close(socket_fd)


def _encode(message: Message, number: int) -> bytes:
    size = _HEADER.size + len(message.body)
    header = _HEADER.pack(size, message.kind, message.flags | F_REQUEST, number, 0)
    return header + message.body + bytes(-size % 4)


def loopback_up() -> None:
    """Bring `lo` up in the caller's network namespace (netdevice(7)).

    Needs CAP_NET_ADMIN in the namespace.
    """
    socket_fd: int = libc.socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0)
    if socket_fd == -1:
        raise failed("socket(AF_INET)")
    try:
        request = struct.pack("16sH22x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(socket_fd, _SIOCSIFFLAGS, request)
    except OSError as error:
        raise SyscallError("ioctl(lo, SIOCSIFFLAGS)", error.errno or 0) from error
    finally:
        os.close(socket_fd)
