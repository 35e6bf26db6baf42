"""A small client of D-Bus, for a few requests to the user's systemd.

It connects to a message bus, or to the socket of systemd itself, which has no broker and no Hello.
Requests are written at once and their answers are read later, so an early request costs no time
while its answer is on its way.

The peer is not trusted: the socket and the process behind it must belong to the caller, every read
has a deadline, and every size is limited.

Source: D-Bus Specification 0.43, https://dbus.freedesktop.org/doc/dbus-specification.html
"""

from __future__ import annotations

import _socket
import os
import stat
import time

from rootless.errors import RlessError
from rootless.linux import unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

TIMEOUT = 10.0  # seconds for each thing that is waited for; less for who is known to be mute
_LARGEST = 1 << 20  # bytes of a message; the specification allows 128 MiB
_LONGEST_LINE = 1024  # bytes of an answer before there are messages
_DEEPEST = 16  # containers in containers

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(
    1, 9
)
_FIELD_TYPES = {
    _PATH: "o",
    _INTERFACE: "s",
    _MEMBER: "s",
    _ERROR_NAME: "s",
    _REPLY_SERIAL: "u",
    _DESTINATION: "s",
    _SIGNATURE: "g",
}
# type code -> (size, signed)
_INTEGERS = {
    "y": (1, False),
    "n": (2, True),
    "q": (2, False),
    "i": (4, True),
    "u": (4, False),
    "x": (8, True),
    "t": (8, False),
    "b": (4, False),
    "h": (4, False),
}
_ALIGNMENT = {code: size for code, (size, _) in _INTEGERS.items()}
_ALIGNMENT |= {"s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8, "d": 8}

_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class DBusError(RlessError):
    """Report what the other side has answered.

    Attributes:
        name: of the error, as "org.freedesktop.systemd1.UnitExists"; "" if it was not even that.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class NoAnswerError(DBusError):
    """Report that somebody is there and says nothing."""


class Message:
    """A message that was received.

    Attributes:
        kind: RETURN, ERROR or SIGNAL. reply_serial: of the call that it answers.
        path, interface, member, error: "" where it has none.
        body: its arguments.
    """

    __slots__ = ("body", "error", "interface", "kind", "member", "path", "reply_serial")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.reply_serial: int = fields.get(_REPLY_SERIAL, 0)
        self.path: str = fields.get(_PATH, "")
        self.interface: str = fields.get(_INTERFACE, "")
        self.member: str = fields.get(_MEMBER, "")
        self.error: str = fields.get(_ERROR_NAME, "")
        self.body = body

    def answers(self, serial: int) -> bool:
        """Tell whether it is the answer to a call.

        Raises:
            DBusError: it is, and an error.
        """
        if self.reply_serial != serial or self.kind not in (RETURN, ERROR):
            return False
        if self.kind == ERROR:
            text = self.body[0] if self.body else self.error
            raise DBusError(str(text)[:500], self.error)
        return True


# -- the wire format -----------------------------------------------------------------------------


def split_types(signature: str) -> Iterator[str]:
    """Yield the complete types of a signature: "sa(sv)" has "s" and "a(sv)".

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        yield signature[at:end]
        at = end


def _end_of_type(signature: str, at: int, depth: int = 0) -> int:
    if depth > _DEEPEST or at >= len(signature):
        raise ValueError("a signature is cut short or too deep")
    code = signature[at]
    if code == "a":
        return _end_of_type(signature, at + 1, depth + 1)
    if code in "({":
        at += 1
        close = ")" if code == "(" else "}"
        if signature[at : at + 1] == close:
            raise ValueError("a signature has an empty struct")
        while signature[at : at + 1] != close:
            at = _end_of_type(signature, at, depth + 1)
        return at + 1
    if code not in _ALIGNMENT:
        raise ValueError(f"a signature has the unknown type {code!r}")
    return at + 1


def marshal(signature: str, values: tuple[Any, ...]) -> bytes:
    """Return values in the wire format, little endian; a variant is a pair (signature, value)."""
    out = bytearray()
    for kind, value in zip(split_types(signature), values, strict=True):
        _put(out, kind, value)
    return bytes(out)


def _put(out: bytearray, kind: str, value: Any) -> None:
    code = kind[0]
    _pad(out, _ALIGNMENT[code])
    if code in _INTEGERS:
        size, signed = _INTEGERS[code]
        out += int(value).to_bytes(size, "little", signed=signed)
    elif code in "so":
        data = value.encode()
        out += len(data).to_bytes(4, "little") + data + b"\0"
    elif code == "g":
        data = value.encode()
        out += bytes((len(data),)) + data + b"\0"
    elif code == "v":
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    elif code == "a":
        place = len(out)
        out += b"\0\0\0\0"
        _pad(out, _ALIGNMENT[kind[1]])
        begin = len(out)
        if kind == "ay":
            out += value
        else:
            for item in value:
                _put(out, kind[1:], item)
        out[place : place + 4] = (len(out) - begin).to_bytes(4, "little")
    elif code == "(":
        for inner, item in zip(split_types(kind[1:-1]), value, strict=True):
            _put(out, inner, item)
    else:
        raise ValueError(f"nothing is sent as {kind!r}")


def _pad(out: bytearray, alignment: int) -> None:
    out += b"\0" * (-len(out) % alignment)


class Reader:
    """Takes values out of the wire format.

    Raises:
        ValueError: from all methods: the data is not what the signature says.
    """

    __slots__ = ("_at", "_data", "_order")

    def __init__(self, data: bytes, order: str) -> None:
        """Begin at the start of `data`; `order`: "little" or "big"."""
        self._data = data
        self._order = order
        self._at = 0

    def take(self, kind: str, depth: int = 0) -> Any:
        """Return the next value, of one complete type; a variant is its value alone."""
        if depth > _DEEPEST:
            raise ValueError("values are too deep")
        code = kind[0]
        self.align(_ALIGNMENT[code])
        if code in _INTEGERS:
            size, signed = _INTEGERS[code]
            number = int.from_bytes(self._bytes(size), self._order, signed=signed)  # type: ignore[arg-type]
            return bool(number) if code == "b" else number
        if code == "d":
            return self._bytes(8)
        if code in "sog":
            size = self.take("u" if code != "g" else "y")
            text = self._bytes(size + 1)
            return text[:-1].decode()
        if code == "v":
            inner = list(split_types(self.take("g")))
            if len(inner) != 1:
                raise ValueError("a variant holds not one value")
            return self.take(inner[0], depth + 1)
        if code == "a":
            size = self.take("u")
            self.align(_ALIGNMENT[kind[1]])
            end = self._at + size
            if end > len(self._data):
                raise ValueError("an array is cut short")
            if kind == "ay":
                return self._bytes(size)
            items = []
            while self._at < end:
                items.append(self.take(kind[1:], depth + 1))
            if self._at != end:
                raise ValueError("an array ends in the middle of an item")
            return items
        return tuple([self.take(inner, depth + 1) for inner in split_types(kind[1:-1])])

    def align(self, alignment: int) -> None:
        """Go on at a multiple of `alignment`."""
        self._at += -self._at % alignment

    def _bytes(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ValueError("a value is cut short")
        data = self._data[self._at : end]
        self._at = end
        return data


def encode(
    kind: int, serial: int, fields: dict[int, str | int], signature: str, body: tuple[Any, ...]
) -> bytes:
    """Return a whole message."""
    payload = marshal(signature, body)
    if signature:
        fields = {**fields, _SIGNATURE: signature}
    header = marshal(
        "yyyyuua(yv)",
        (
            *(ord("l"), kind, 0, 1, len(payload), serial),
            [(code, (_FIELD_TYPES[code], value)) for code, value in fields.items()],
        ),
    )
    return header + b"\0" * (-len(header) % 8) + payload


def size_of(start: bytes) -> int:
    """Return the size of the message whose first 16 bytes these are.

    Raises:
        ValueError: they begin no message, or one that is too large.
    """
    order = {ord("l"): "little", ord("B"): "big"}.get(start[0])
    if order is None or start[3] != 1:
        raise ValueError("no message of D-Bus")
    body = int.from_bytes(start[4:8], order)  # type: ignore[arg-type]
    fields = int.from_bytes(start[12:16], order)  # type: ignore[arg-type]
    size = 16 + fields + -fields % 8 + body
    if size > _LARGEST:
        raise ValueError(f"a message of {size} bytes")
    return size


def decode(data: bytes) -> Message:
    """Return a message from the bytes of one.

    Raises:
        ValueError: they are none.
    """
    order = "little" if data[0] == ord("l") else "big"
    reader = Reader(data, order)
    _, kind, _, _, _, _, pairs = (reader.take(one) for one in (*"yyyyuu", "a(yv)"))
    fields = dict(pairs)
    for code, wanted in _FIELD_TYPES.items():
        if code in fields and not isinstance(fields[code], int if wanted == "u" else str):
            raise ValueError("a header field has the wrong type")
    reader.align(8)
    body = [reader.take(one) for one in split_types(fields.get(_SIGNATURE, ""))]
    return Message(kind, fields, body)


# -- a connection --------------------------------------------------------------------------------


def is_ours(path: str) -> bool:
    """Tell whether there is a socket of the caller's at `path`; a link is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid()


def outer_uid() -> int:
    """Return the caller's uid as a process outside of its user namespace has it.

    EXTERNAL names the uid as the other side sees it (user_namespaces(7)).
    """
    own = os.getuid()
    with open("/proc/self/uid_map", "rb") as file:
        for line in file:
            inside, outside, count = (int(word) for word in line.split())
            if inside <= own < inside + count:
                return outside + own - inside
    return own


def reach(sockets: Sequence[tuple[str, bool]], patience: float | None = None) -> Connection:
    """Connect to the first of some sockets behind which there is somebody.

    Args:
        sockets: paths, and whether each is a bus.
        patience: as for `Connection`.

    Raises:
        DBusError: nobody is there.
    """
    why: DBusError | None = None
    for path, broker in sockets:
        if not is_ours(path):
            continue
        try:
            return Connection(path, broker, outer_uid(), patience)
        except DBusError as error:
            why = error
    raise why or DBusError("the user has no systemd here")


class Connection:
    """One connection; what is called is sent by `send`, and answered in any order.

    Attributes:
        broker: there is a message bus at the other end, not systemd itself.
        is_ready: we were let in.
        patience: seconds for each thing that is waited for.
        serial: of the last message.
    """

    __slots__ = (
        "_data",
        "_deadline",
        "_out",
        "_socket",
        "broker",
        "is_ready",
        "patience",
        "serial",
    )

    def __init__(self, path: str, broker: bool, uid: int, patience: float | None = None) -> None:
        """Connect and say who we are; nothing is waited for but the connection.

        Args:
            path: of the socket.
            broker: it is a message bus, which wants a Hello.
            uid: ours, as the other side sees it.
            patience: seconds; None: TIMEOUT.

        Raises:
            DBusError: there is nobody, or another user.
        """

        self.broker = broker
        self.patience = TIMEOUT if patience is None else patience
        self._deadline = 0.0
        self._data = bytearray()
        self._out = bytearray()
        self.serial = 0
        self.is_ready = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(self.patience)
            self._socket.connect(path)
            pid, owner = unix.peer(self._socket)
            if owner != os.getuid():
                raise DBusError(f"{path} is served by user {owner}")
            if not pid:
                # It would take our pids for others.
                raise DBusError(f"{path} is served from another pid namespace")
            name = str(uid).encode().hex()
            self._socket.sendall(b"\0AUTH EXTERNAL " + name.encode() + b"\r\nBEGIN\r\n")
        except OSError as error:
            self.close()
            raise DBusError(f"{path}: {error.strerror or error}") from error
        except DBusError:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def call(self, to: tuple[str, str, str], member: str, signature: str = "", *values: Any) -> int:
        """Add a method call to what is sent next; return its serial, for `answer`.

        Args:
            to: name on the bus, object path, interface.
            signature: of the arguments, `values`.
        """
        self.serial += 1
        fields: dict[int, str | int] = {_PATH: to[1], _INTERFACE: to[2], _MEMBER: member}
        if self.broker:
            fields[_DESTINATION] = to[0]
        self._out += encode(CALL, self.serial, fields, signature, values)
        return self.serial

    def send(self) -> None:
        """Send all calls, once the other side has accepted us.

        Raises:
            DBusError: it has not, or has gone.
        """
        self._deadline = time.monotonic() + self.patience
        if not self.is_ready:
            self._await_welcome()
            if self.broker:
                waiting, self._out = self._out, bytearray()
                self.serial += 1
                fields: dict[int, str | int] = {
                    _DESTINATION: _BUS[0],
                    _PATH: _BUS[1],
                    _INTERFACE: _BUS[2],
                    _MEMBER: "Hello",
                }
                self._out += encode(CALL, self.serial, fields, "", ()) + waiting
            self.is_ready = True
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(self._out)
        except TimeoutError as error:
            raise NoAnswerError("D-Bus: no answer in time") from error
        except OSError as error:
            raise DBusError(f"D-Bus: {error.strerror}") from error
        self._out.clear()

    def listen(self, rule: str) -> None:
        """Have the bus pass on signals, by a match rule; systemd's own socket gives all."""
        if self.broker:
            self.call(_BUS, "AddMatch", "s", rule)

    def answer(self, serial: int) -> list[Any]:
        """Wait for the answer to a call and return its values; what comes before it is dropped.

        Raises:
            DBusError: it is an error, or does not come.
        """
        deadline = time.monotonic() + self.patience
        while True:
            message = self.receive(deadline)
            if message.answers(serial):
                return message.body

    def receive(self, deadline: float) -> Message:
        """Wait for the next message and return it.

        Args:
            deadline: of `time.monotonic`.

        Raises:
            DBusError: it does not come, or is none.
        """
        self._deadline = deadline
        try:
            while len(self._data) < 16:
                self._read()
            size = size_of(bytes(self._data[:16]))
            while len(self._data) < size:
                self._read()
            message = decode(bytes(self._data[:size]))
        except ValueError as error:  # UnicodeDecodeError, too
            raise DBusError(f"D-Bus: {error}") from None
        except KeyError:
            raise DBusError("D-Bus: a type that is not known") from None
        del self._data[:size]
        return message

    def _await_welcome(self) -> None:
        while b"\r\n" not in self._data:
            if len(self._data) > _LONGEST_LINE:
                raise DBusError("D-Bus: no answer to AUTH, but other bytes")
            self._read()
        line, _, rest = bytes(self._data).partition(b"\r\n")
        self._data[:] = rest
        if not line.startswith(b"OK "):
            raise DBusError(f"D-Bus refuses us: {line[:100]!r}")

    def _read(self) -> None:
        try:
            self._socket.settimeout(self._left())
            data = self._socket.recv(65536)
        except TimeoutError as error:
            raise NoAnswerError("D-Bus: no answer in time") from error
        except OSError as error:
            raise DBusError(f"D-Bus: {error.strerror}") from error
        if not data:
            raise DBusError("D-Bus: the connection was closed")
        self._data += data

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NoAnswerError("D-Bus: no answer in time")
        return left
