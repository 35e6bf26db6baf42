"""The storm of `faults` through Docker's API: the service and its children are killed, too.

A service that is killed at any moment loses streams and nothing else: what a client asked for is
done or not, and nothing is left of what was begun. Who listens is spared, and starts the next one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.lib.faults import MARK, SCRIPT, Storm, below, children

if TYPE_CHECKING:
    from tests.lib.product import Product

_VERBS = (
    "run run run-rm run-always create start start stop restart rm rm exec exec exec-d logs kill"
).split()
_MOST = 4  # services killed at a time: the fifth makes who listens wait for a minute
# Requests, each of which is a word; one with "+" stays open until the end. Many of them fail. The
# last word is for `Storm`, which ends those who may follow what goes on for ever.
_CLIENT = r"""
import json, re, socket, sys
kept, known = [], ""
def read(client):
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data
try:
    for word in sys.argv[2:-1]:
        stays, method, path, *body = re.fullmatch(r"(\+?)(\S+) (\S+) ?(.*)", word).groups()
        head = "Connection: Upgrade\r\nUpgrade: tcp" if "attach" in path else "Connection: close"
        head += "\r\nContent-Type: application/json" if body[0] else ""
        client = socket.socket(socket.AF_UNIX)
        client.connect(sys.argv[1])
        client.sendall(
            f"{method} {path.replace('ID', known)} HTTP/1.1\r\nHost: d\r\n{head}\r\n"
            f"Content-Length: {len(body[0])}\r\n\r\n{body[0]}".encode()
        )
        if stays:
            client.recv(1)
            kept.append(client)
        elif found := re.search(rb'"Id": "(\w+)"', read(client)):
            known = found[1].decode()
    for client in kept:
        read(client)
except OSError:
    sys.exit(1)
"""


class ServiceStorm(Storm):
    """Random requests, commands and kills."""

    def __init__(self, rless: Product, seed: int | str, names: int = 4) -> None:
        super().__init__(rless, seed, names)
        rless("tag", rless.image, "docker.io/library/storm").expect()
        self.services_killed = 0  # since they were started anew
        self.path = str(rless.runtime / "rless" / "docker.sock")

    def run(self, kills: int, seconds: float) -> None:
        """As `Storm.run`; who listens ends afterwards."""
        try:
            super().run(kills, seconds)
        finally:
            self.rless("service", "stop")

    def _blow(self) -> None:
        self.rless("service", "stop")  # who listens has a patience, which begins anew
        self.rless("service", "start").expect()
        self.services_killed = 0
        super()._blow()

    def _begin(self) -> subprocess.Popen[bytes]:
        if self.chance.random() < 0.3:
            return super()._begin()
        name, verb = self.chance.choice(self.names), self.chance.choice(_VERBS)
        one = f"/containers/{name}"
        words = {
            "start": [f"POST {one}/start"],
            "stop": [f"POST {one}/stop?t=1"],
            "restart": [f"POST {one}/restart?t=1"],
            "kill": [f"POST {one}/kill"],
            "rm": [f"DELETE {one}?force=1&v=1"],
            "logs": [f"GET {one}/logs?follow=1&stdout=1"],
            "exec": [self._exec(name), "POST /exec/ID/start {}"],
            "exec-d": [self._exec(name), 'POST /exec/ID/start {"Detach": true}'],
        }.get(verb) or self._run(name, verb)
        self.history.append(f"API: {verb} {name}")
        follows = verb in ("logs", "exec") or verb.startswith("run")
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                _CLIENT,
                self.path,
                *words,
                "wait" if follows else "ask",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _exec(self, name: str) -> str:
        command = ["sh", "-c", "sleep 600; :", f"exec-{MARK}{name}"]
        wanted = {"Cmd": command, "AttachStdout": True, "Tty": self.chance.random() < 0.5}
        return f"POST /containers/{name}/exec {json.dumps(wanted)}"

    def _run(self, name: str, verb: str) -> list[str]:
        """Return what `docker run` asks for; or `docker create`."""
        wanted = {
            "Image": "storm",
            "Cmd": ["sh", "-c", SCRIPT, f"{MARK}{name}"],
            "Volumes": {"/anonymous": {}},
            "HostConfig": {
                "NetworkMode": "none",
                "AutoRemove": verb == "run-rm",
                "RestartPolicy": {"Name": "always" if verb == "run-always" else "no"},
            },
        }
        create = f"POST /containers/create?name={name} {json.dumps(wanted)}"
        if verb == "create":
            return [create]
        one = f"/containers/{name}"
        return [
            create,
            f"+POST {one}/attach?stream=1&stdout=1&stderr=1",
            f"+POST {one}/wait?condition={'removed' if verb == 'run-rm' else 'next-exit'}",
            f"POST {one}/start",
        ]

    def _victims(self, running: list[subprocess.Popen[bytes]]) -> list[int]:
        listeners = self._listeners()
        services = [pid for one in listeners for pid in children(one)]
        if not services or self.chance.random() < 0.4:
            chosen = super()._victims(running)
        else:
            kind = self.chance.choice(("service", "service", "below"))
            of_kind = services if kind == "service" else sorted(below(services) - set(services))
            chosen = [self.chance.choice(of_kind)] if of_kind else []
            self.history.append(f"  kill {kind} of the API {chosen}")
        spared = listeners if self.services_killed < _MOST else [*listeners, *services]
        chosen = [pid for pid in chosen if pid not in spared]
        self.services_killed += any(pid in services for pid in chosen)
        return chosen

    def _listeners(self) -> list[int]:
        return [pid for pid, what in self.rless.processes().items() if "(rless-listener)" in what]

    def _accounted(self) -> set[int]:
        listeners = self._listeners()
        services = [pid for one in listeners for pid in children(one)]
        return super()._accounted() | {*listeners, *services}
