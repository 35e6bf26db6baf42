"""linux/dbus: the wire format, and hostile or broken servers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.linux import dbus
from tests.lib.fakesystemd import MANAGER, FakeSystemd

HELLO = bytes.fromhex(
    # l, method call, no flags, version 1, no body, serial 1
    "6c 01 00 01 00000000 01000000 6d000000"
    # the header fields, each aligned to 8
    "01 01 6f 00 15000000" + b"/org/freedesktop/DBus\0\0\0".hex()
    + "02 01 73 00 14000000" + b"org.freedesktop.DBus\0\0\0\0".hex()
    + "03 01 73 00 05000000" + b"Hello\0\0\0".hex()
    + "06 01 73 00 14000000" + b"org.freedesktop.DBus\0".hex()
    + "000000"
)  # fmt: skip


def test_message_matches_the_specification() -> None:
    name = "org.freedesktop.DBus"
    fields: dict[int, str | int] = {1: "/org/freedesktop/DBus", 2: name, 3: "Hello", 6: name}
    assert dbus.encode(dbus.CALL, 1, fields, "", ()) == HELLO
    assert dbus.size_of(HELLO[:16]) == len(HELLO)
    message = dbus.decode(HELLO)
    assert (message.path, message.interface, message.member) == (fields[1], name, "Hello")


@pytest.mark.parametrize(
    ("signature", "values", "data"),
    [
        ("yu", (1, 2), "01000000 02000000"),
        ("b", (True,), "01000000"),
        ("s", ("ab",), "02000000 616200"),
        ("g", ("ab",), "02 616200"),
        ("au", ([1, 2],), "08000000 01000000 02000000"),
        ("at", ([1],), "08000000 00000000 0100000000000000"),
        ("ay", (b"xy",), "02000000 7879"),
        ("v", (("u", 7),), "01 7500 00 07000000"),
        ("(sv)", (("a", ("b", False)),), "01000000 6100 01 6200 000000 00000000"),
        ("a(sa(sv))", ([],), "00000000 00000000"),
        ("i", (-2,), "feffffff"),
    ],
)
def test_values_are_encoded(signature: str, values: tuple[Any, ...], data: str) -> None:
    assert dbus.marshal(signature, values) == bytes.fromhex(data)


def test_big_endian_is_read() -> None:
    assert dbus.Reader(bytes.fromhex("00000002 616200"), "big").take("s") == "ab"


LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "s": st.text().filter(lambda text: "\0" not in text and text.isprintable()),
    "u": st.integers(0, 2**32 - 1),
    "t": st.integers(0, 2**64 - 1),
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "ay": st.binary(),
}


@st.composite
def typed(draw: Callable[[Any], Any], depth: int = 3) -> tuple[str, Any]:
    """Draw a type and a value of it."""
    kind = draw(st.sampled_from([*LEAVES, *(["array", "struct"] if depth else [])]))
    if kind == "struct":
        parts = draw(st.lists(typed(depth - 1), min_size=1, max_size=3))
        return f"({''.join(part[0] for part in parts)})", tuple(part[1] for part in parts)
    if kind == "array":
        inner = draw(st.sampled_from([name for name in LEAVES if name != "y"]))
        return f"a{inner}", draw(st.lists(LEAVES[inner], max_size=4))
    return kind, draw(LEAVES[kind])


@given(st.lists(typed(), max_size=4))
def test_written_messages_are_read_back(parts: list[tuple[str, Any]]) -> None:
    signature = "".join(kind for kind, _ in parts)
    values = tuple(value for _, value in parts)
    reader = dbus.Reader(dbus.marshal(signature, values), "little")
    assert tuple(reader.take(kind) for kind in dbus.split_types(signature)) == values


@given(st.binary(max_size=200), st.integers(0, 200))
def test_garbage_is_an_error(noise: bytes, place: int) -> None:
    message = dbus.encode(2, 1, {5: 1}, "sa(sv)", ("x", [("y", ("t", 1))]))
    data = message[:place] + noise + message[place + len(noise) :]
    try:
        dbus.size_of(data[:16].ljust(16, b"\0"))
        dbus.decode(data)
    except (ValueError, KeyError):
        pass


@pytest.mark.parametrize("signature", ["a", "(", "(s", "()", "a()", "q?", "z", "a" * 40 + "y"])
def test_wrong_signatures_are_refused(signature: str) -> None:
    with pytest.raises(ValueError, match="signature"):
        list(dbus.split_types(signature))


# -- connections ---------------------------------------------------------------------------------

TO = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", MANAGER)


@pytest.fixture(params=[False, True], ids=["private", "bus"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeSystemd]:
    with FakeSystemd(tmp_path, broker=request.param) as fake:
        yield fake


def connect(fake: FakeSystemd) -> dbus.Connection:
    path = fake.runtime_dir / ("bus" if fake.broker else "systemd/private")
    return dbus.Connection(str(path), fake.broker, os.getuid())


def test_call_waits_for_its_signal(systemd: FakeSystemd) -> None:
    connection = connect(systemd)
    connection.listen("type='signal'")
    call = connection.call(TO, "StartTransientUnit", "ssa(sv)a(sa(sv))", "a.scope", "fail", [], [])
    connection.send()
    job = connection.answer(call)[0]
    signals = [connection.receive(time.monotonic() + 5) for _ in range(2)]
    assert {(one.kind, one.interface, one.member) for one in signals} == {
        (dbus.SIGNAL, MANAGER, "JobRemoved")
    }
    assert signals[0].body[1].endswith("other")
    assert signals[1].body[1:] == [job, "a.scope", "done"]
    connection.close()
    uid = str(os.getuid()).encode().hex().encode()
    assert systemd.logins == [b"\0AUTH EXTERNAL " + uid + b"\r\n"]
    names = [name for name, _ in systemd.calls]
    assert names == ["Hello", "AddMatch", "StartTransientUnit"][0 if systemd.broker else 2 :]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("org.example.No", "not today"), "not today"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no message"),
        (b"l\2\0\1" + b"\xff" * 12, "a message of"),
        (b"l\2\0\1" + bytes(8) + b"\x10\0\0\0" + b"\xff" * 16, "D-Bus"),
    ],
)
def test_wrong_answers_are_errors(
    systemd: FakeSystemd, answer: tuple[str, str] | bytes, words: str
) -> None:
    systemd.answers["Subscribe"] = answer
    connection = connect(systemd)
    call = connection.call(TO, "Subscribe")
    connection.send()
    with pytest.raises(dbus.DBusError, match=words):
        connection.answer(call)
    connection.close()


def test_silent_server_times_out(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus, "TIMEOUT", 0.1)
    systemd.answers["Subscribe"] = None
    connection = connect(systemd)
    call = connection.call(TO, "Subscribe")
    connection.send()
    with pytest.raises(dbus.DBusError, match="in time"):
        connection.answer(call)
    connection.close()


@pytest.mark.parametrize("said", [b"REJECTED EXTERNAL\r\n", b"x" * 5000, b""])
def test_refused_login_is_reported(
    systemd: FakeSystemd, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbus, "TIMEOUT", 0.2)
    systemd.answers["AUTH"] = said
    connection = connect(systemd)
    connection.call(TO, "Subscribe")
    with pytest.raises(dbus.DBusError, match="D-Bus"):
        connection.send()
    connection.close()


def test_closed_connection_is_reported(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    connection = dbus.Connection(path, False, os.getuid())
    server.accept()[0].close()
    connection.call(TO, "Subscribe")
    with pytest.raises(dbus.DBusError):
        connection.send()
    connection.close()
    server.close()
    with pytest.raises(dbus.DBusError, match="refused"):
        dbus.Connection(path, False, os.getuid())


def test_only_a_socket_of_the_user_is_used(tmp_path: Path) -> None:
    """A link, or what is no socket, is not ours to speak to (class 42)."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("socket")
    (tmp_path / "file").touch()
    assert dbus.is_ours(str(tmp_path / "socket"))
    assert not any(dbus.is_ours(str(tmp_path / name)) for name in ("link", "file", "none"))
    server.close()


def test_socket_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert not dbus.is_ours(str(tmp_path / "socket"))
    server.close()
