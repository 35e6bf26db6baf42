"""A user's systemd that is none: it speaks D-Bus on a socket, and makes scopes as directories.

For the cgroups of RLESS_TEST_CGROUP, which have no controllers: what a real one does with limits is
shown in the virtual machine (tests/vm). Its scopes go when they are empty, as systemd's do.

    with FakeSystemd(tmp_path) as systemd:
        rless("run", ..., XDG_RUNTIME_DIR=systemd.runtime_dir)
        systemd.calls
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rootless.linux import dbus

MANAGER = "org.freedesktop.systemd1.Manager"


class FakeSystemd:
    """The manager, in threads of this process.

    Attributes:
        calls: (member, arguments) of all calls, in order.
        round_trips: of all connections, how often it was waited for an answer.
        answers: member -> what is answered in place of what would be: an error's name and text,
            bytes, or None for silence.
        before_start: called with the processes of a scope before they are moved into it.
    """

    def __init__(self, base: Path, broker: bool = False, slices: Path | None = None) -> None:
        self.broker = broker
        self.slices = slices
        self.runtime_dir = base / "runtime"
        self.calls: list[tuple[str, list[Any]]] = []
        self.logins: list[bytes] = []
        self.round_trips = 0
        self.answers: dict[str, tuple[str, str] | bytes | None] = {}
        self.before_start: Callable[[list[int]], object] = lambda pids: None
        self._jobs = 0
        self._ended = threading.Event()
        self._connections: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> FakeSystemd:
        path = self.runtime_dir / ("bus" if self.broker else "systemd/private")
        path.parent.mkdir(parents=True)
        self.runtime_dir.chmod(0o700)
        self._socket.bind(os.fspath(path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        if self.slices is not None:
            threading.Thread(target=self._collect, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._ended.set()
        for one in (self._socket, *self._connections):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed
            one.close()

    def arguments(self, member: str) -> list[Any]:
        """Return those of the last call of a method."""
        return [values for name, values in self.calls if name == member][-1]

    def properties(self) -> dict[str, Any]:
        """Return what the last scope was to have."""
        return dict(self.arguments("StartTransientUnit")[2])

    # -- the wire --------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        welcomed = False
        try:
            while chunk := connection.recv(65536):
                self.round_trips += 1
                data += chunk
                if not welcomed and b"BEGIN\r\n" in data:
                    login, _, data = data.partition(b"BEGIN\r\n")
                    self.logins.append(login)
                    answer = self.answers.get("AUTH", b"OK 0123456789abcdef\r\n")
                    assert isinstance(answer, bytes | None)
                    connection.sendall(answer or b"")
                    welcomed = True
                while len(data) >= 16 and len(data) >= dbus.size_of(data[:16]):
                    size = dbus.size_of(data[:16])
                    self._answer(connection, data[:size])
                    data = data[size:]
        except OSError:
            pass  # it was closed

    def _answer(self, connection: socket.socket, data: bytes) -> None:
        message = dbus.decode(data)
        serial = int.from_bytes(data[8:12], "little")
        self.calls.append((message.member, message.body))
        answer = self.answers.get(message.member, b"")
        if message.member == "StartTransientUnit" and self._is_there(message.body[0]):
            answer = ("org.freedesktop.systemd1.UnitExists", "it is there")
        if message.member in self.answers or answer:
            if isinstance(answer, bytes):
                connection.sendall(answer)
            elif answer is not None:
                name, text = answer
                connection.sendall(dbus.encode(dbus.ERROR, 1, {4: name, 5: serial}, "s", (text,)))
            return
        signature, values, signals = "", (), b""
        if message.member == "Hello":
            signature, values = "s", (":1.7",)
        elif message.member == "StartTransientUnit":
            self._jobs += 1
            job = f"/org/freedesktop/systemd1/job/{self._jobs}"
            signature, values = "o", (job,)
            unit = message.body[0]
            result = self._start(unit, dict(message.body[2]))
            fields: dict[int, str | int] = {1: "/org/freedesktop/systemd1", 2: MANAGER}
            fields[3] = "JobRemoved"
            other = (self._jobs + 1000, "/org/freedesktop/systemd1/job/other", "x", "failed")
            for body in (other, (self._jobs, job, unit, result)):
                signals += dbus.encode(dbus.SIGNAL, 2, fields, "uoss", body)
        elif message.member == "AttachProcessesToUnit" and self.slices is not None:
            unit, below, pids = message.body
            (found,) = self.slices.glob(f"*/{unit}")
            for pid in pids:
                Path(f"{found}{below}/cgroup.procs").write_text(str(pid))
        connection.sendall(dbus.encode(dbus.RETURN, 3, {5: serial}, signature, values))
        connection.sendall(signals)

    # -- scopes ----------------------------------------------------------------------------

    def _is_there(self, unit: str) -> bool:
        return self.slices is not None and any(self.slices.glob(f"*/{unit}"))

    def _start(self, unit: str, properties: dict[str, Any]) -> str:
        if self.slices is not None:
            self.before_start(properties["PIDs"])
            directory = self.slices / properties["Slice"] / unit
            directory.mkdir(parents=True)
            for pid in properties["PIDs"]:
                (directory / "cgroup.procs").write_text(str(pid))
        return "done"

    def _collect(self) -> None:
        """Remove scopes that are empty."""
        assert self.slices is not None
        while not self._ended.wait(0.01):
            try:
                scopes = list(self.slices.glob("*/*.scope"))
            except OSError:
                return  # the test has just taken all away
            for scope in scopes:
                self._remove_if_empty(scope)

    @staticmethod
    def _remove_if_empty(scope: Path) -> None:
        try:
            if "populated 1" in (scope / "cgroup.events").read_text():
                return
            time.sleep(0.01)  # it was made just now?
            if "populated 1" in (scope / "cgroup.events").read_text():
                return
            for directory, _, _ in os.walk(scope, topdown=False):
                os.rmdir(directory)
        except OSError:
            pass  # somebody has come, or was faster
