"""Secrets of requests show nowhere, and many requests leave nothing: classes 76 and 83."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lib.product import wait_for
from tests.lib.service import PATIENCE

if TYPE_CHECKING:
    from tests.lib.service import Service

SECRET = "correct-horse-battery"


def header(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def told(pid: int) -> bytes:
    """Return what `ps` tells of a process and of those that it has started."""
    found = b""
    for name in ("cmdline", "environ"):
        found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found + b"".join(map(told, children(pid)))


def test_credentials_are_in_no_argument_and_no_variable(service: Service) -> None:
    login = {"username": "me", "password": SECRET}
    dockerfile = io.BytesIO()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(PATIENCE)
        host = f"127.0.0.1:{mute.getsockname()[1]}"
        text = f"FROM {host}/base\n".encode()
        with tarfile.open(fileobj=dockerfile, mode="w") as archive:
            member = tarfile.TarInfo("Dockerfile")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        words = json.dumps({"TOKEN": f"{SECRET}-too"})
        asked = [
            (f"/images/create?fromImage={host}/app", None, "X-Registry-Auth", login),
            (
                "/build?buildargs=" + words,
                dockerfile.getvalue(),
                "X-Registry-Config",
                {host: login},
            ),
        ]
        answers: list[tuple[int, Any]] = []

        def ask(target: str, body: bytes | None, name: str, value: Any) -> None:
            headers = {name: header(value), "Content-Type": "application/x-tar"}
            answers.append(service.ask("POST", target.replace(" ", "%20"), body, headers))

        threads = [threading.Thread(target=ask, args=one) for one in asked]
        for thread in threads:
            thread.start()
        heard = [mute.accept()[0] for _ in asked]
        assert len(children(service.process.pid)) >= len(asked)
        seen = told(service.process.pid)
        for connection in heard:
            connection.close()
    for thread in threads:
        thread.join(PATIENCE)
    for secret in (SECRET, header(login), base64.b64encode(f"me:{SECRET}".encode()).decode()):
        assert secret.encode() not in seen
        assert secret not in str(answers)
    assert len(answers) == len(asked)


def test_many_requests_leave_nothing(service: Service) -> None:
    targets = ("/_ping", "/version", "/containers/json?all=1", "/containers/none/json", "/none")
    pid = service.process.pid

    def state() -> tuple[int, int, int]:
        """Return how many descriptors there are, and memory in kB: of its own, and in all."""
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
        return len(os.listdir(f"/proc/{pid}/fd")), sizes["Anonymous"], sizes["Pss"]

    def ask_all(times: int) -> None:
        for _ in range(times):
            for target in targets:
                service.ask("GET", target)

    ask_all(20)
    before = state()
    ask_all(180)
    wait_for(lambda: state()[0] <= before[0], "closed connections", PATIENCE)
    assert state()[1] - before[1] < 512, (before, state())
    assert state()[2] < 25_000
