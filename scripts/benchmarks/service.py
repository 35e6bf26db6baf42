"""Docker's API: the same docker command through the socket of rless, and through that of podman."""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import threading
import time
from typing import Any

from benchmarks.memory import size
from benchmarks.peers import IMAGE, Peers
from benchmarks.table import Case, Command, Group

NAME = "service"
WEIGHED = "service: requests, events, memory"
SERVICES = 10  # of the project for compose
IDLE = "trap 'exit 0' TERM; sleep 1000000 & wait"
STREAMS, REQUESTS, EVENTS, LISTED = 200, 10_000, 50, 100
_PATIENCE = 30.0  # seconds
_running: dict[str, subprocess.Popen[bytes]] = {}


def groups(peers: Peers, runs: int) -> list[Group]:
    """Return what is measured; the service of podman is the reference of each group."""
    few = max(3, runs // 4)
    run = ["run", "--rm", "--network"]
    one = ["run", "-d", "--name", "one", "--network", "none", IMAGE, "sh", "-c", IDLE]
    compose = ["docker-compose", "-p", "NAME", "-f", f"{peers.work}/{NAME}/docker-compose.yml"]

    def group(
        name: str,
        samples: int,
        command: Command,
        target: float,
        *,
        repeat: int = 1,
        after: Command | None = None,
        around: tuple[Command, ...] = (),
    ) -> Group:
        """Return a group of one command of docker or compose, once for each service."""
        hosts = {label: ["env", f"DOCKER_HOST=unix://{path(peers, label)}"] for label in programs}
        cases = [
            Case(
                label,
                [[*host, *command]],
                after=[[*host, *after]] if after else (),
                target=None if label == "podman" else target,
            )
            for label, host in hosts.items()
        ]
        first, last = (
            [[*host, "docker", *line] for host in hosts.values() for line in around[part:][:1]]
            for part in (0, 1)
        )
        return Group(
            f"{NAME}: {name}", samples, cases, repeat, first=first, last=last,
            prepare=lambda: start_all(peers),
        )  # fmt: skip

    programs = [label for label in ("podman", "rless") if label not in peers.missing]
    if "docker" in peers.missing:
        return []
    found = [
        group("docker run --rm --network host", runs,
              ["docker", *run, "host", IMAGE, "true"], 0.45),
        group("docker run --rm --network none", runs,
              ["docker", *run, "none", IMAGE, "true"], 0.45),
        group("docker run --rm (default network)", runs,
              ["docker", *run, "default", IMAGE, "true"], 0.45),
        group("docker exec", runs,
              ["docker", "exec", "one", "true"], 0.35, around=(one, ["rm", "-f", "one"])),
        group("50 docker runs, 8 at a time", max(3, runs // 5),
              ["docker", *run, "host", IMAGE, "true"], 0.35, repeat=50),
    ]  # fmt: skip
    if "docker-compose" not in peers.missing:
        up = [*compose, "up", "-d"]
        down = [*compose, "down", "-t", "1"]
        found.append(group(f"compose up of {SERVICES}", few, up, 0.6, after=down))
    return found


def path(peers: Peers, label: str) -> str:
    """Return where a service listens."""
    return f"{peers.work}/{NAME}/{label}.sock"


def start_all(peers: Peers) -> None:
    """Start the services, and write the project, if they are not there."""
    if _running:
        return
    os.mkdir(f"{peers.work}/{NAME}", 0o700)
    project = {
        f"s{number}": {"image": IMAGE, "command": ["sh", "-c", IDLE.replace("$", "$$")]}
        for number in range(SERVICES)
    }
    with open(f"{peers.work}/{NAME}/docker-compose.yml", "w", encoding="utf-8") as file:
        json.dump({"version": "3", "services": project}, file)
    peers.check([peers.rless, "load", "-q", "-i", peers.archive])
    start(peers, "rless", [peers.rless, "service", "--time", "0", path(peers, "rless")])
    if "podman" not in peers.missing:
        address = f"unix://{path(peers, 'podman')}"
        start(peers, "podman", ["podman", "system", "service", "-t", "0", address])


def start(peers: Peers, label: str, argv: Command) -> None:
    """Start a service, and wait until it answers."""
    with open(f"{peers.work}/{NAME}/{label}.log", "wb") as log:
        _running[label] = subprocess.Popen(
            argv, env=peers.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            ask(path(peers, label), "GET", "/_ping")
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"bench: the service of {label} does not answer") from None
            time.sleep(0.002)


def end_all() -> None:
    """End the services."""
    for service in _running.values():
        service.terminate()
        service.wait()
    _running.clear()


# -- without a client that takes time itself -------------------------------------------------------


class Client(http.client.HTTPConnection):
    """A connection to a service."""

    def __init__(self, address: str) -> None:
        super().__init__("service", timeout=_PATIENCE)
        self._address = address

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._address)

    def ask(self, method: str, target: str, body: Any = None) -> Any:
        """Return the answer of a request: JSON, or bytes."""
        text = None if body is None else json.dumps(body)
        self.request(method, target, text, {"Content-Type": "application/json"})
        response = self.getresponse()
        data = response.read()
        if response.status >= 400:
            raise SystemExit(f"bench: {method} {target}: {response.status} {data.decode()}")
        return json.loads(data) if data[:1] in (b"{", b"[") else data

    def stream(self, target: str) -> http.client.HTTPResponse:
        """Begin an answer that does not end."""
        self.request("GET", target)
        return self.getresponse()


def ask(address: str, method: str, target: str, body: Any = None) -> Any:
    """Return the answer of a request on a connection of its own."""
    client = Client(address)
    try:
        return client.ask(method, target, body)
    finally:
        client.close()


def weigh(peers: Peers) -> None:
    """Print how long requests take, how late events are, and what the service weighs."""
    start_all(peers)
    print(f"\n{WEIGHED}")
    _running.pop("rless").terminate()
    address = path(peers, "rless")
    began = time.perf_counter()
    start(peers, "rless", [peers.rless, "service", "--time", "0", address])
    _line("start, first answer", 1000 * (time.perf_counter() - began), "ms", 90)
    pid = _running["rless"].pid
    client = Client(address)
    body = {"Image": IMAGE, "Cmd": ["sh", "-c", IDLE], "HostConfig": {"NetworkMode": "none"}}
    made = [client.ask("POST", "/containers/create", body)["Id"] for _ in range(LISTED)]
    client.ask("POST", f"/containers/{made[0]}/start")
    one = f"/containers/{made[0]}"
    _line("_ping", _median(client, "/_ping"), "ms", 1)
    _line("inspect", _median(client, f"{one}/json"), "ms", 5)
    _line(f"list of {LISTED}", _median(client, "/containers/json?all=1"), "ms", 30)
    client.close()
    _line("memory, one client", _memory(pid), "MB", 25)
    _late(address, pid, one)
    before, open_before = _memory(pid), _descriptors(pid)
    targets = ("/_ping", "/version", "/info", f"{one}/json", "/containers/json", "/images/json")
    for number in range(REQUESTS // 100):
        client = Client(address)
        for _ in range(100):
            client.ask("GET", targets[number % len(targets)])
        client.close()
    _line(f"growth in {REQUESTS} requests", _memory(pid) - before, "MB", 1)
    end = time.monotonic() + _PATIENCE
    while _descriptors(pid) > open_before and time.monotonic() < end:
        time.sleep(0.02)  # it closes its side of the last connection
    _line("descriptors more than before", _descriptors(pid) - open_before, "", 0)
    for name in made:
        ask(address, "DELETE", f"/containers/{name}?force=1")


def _late(address: str, pid: int, one: str) -> None:
    """Print how late events are, with one client and with many, and what many weigh."""
    first = Client(address)
    answer = first.stream("/events")
    _line("an event, one client", _delay(address, answer), "ms", 20)
    others = [Client(address) for _ in range(STREAMS - 1)]
    streams = [
        other.stream("/events" if number % 2 else f"{one}/logs?follow=1&stdout=1")
        for number, other in enumerate(others)
    ]
    _line(f"memory, {STREAMS} streams", _memory(pid), "MB", 35)
    _line(f"an event, {STREAMS} streams", _delay(address, answer), "ms", 50)
    for stream in (*streams, answer):
        stream.close()
    for other in (*others, first):
        other.close()
    end = time.monotonic() + _PATIENCE
    while _descriptors(pid) > STREAMS / 2 and time.monotonic() < end:
        time.sleep(0.02)  # it closes its sides, too


def _delay(address: str, answer: http.client.HTTPResponse) -> float:
    """Return the median of the milliseconds between an event and a client that hears of it."""
    found: list[float] = []

    def hear() -> None:
        while len(found) < 2 * EVENTS:
            event = json.loads(answer.readline())
            found.append((time.time_ns() - event["timeNano"]) / 1e6)

    hearing = threading.Thread(target=hear)
    hearing.start()
    for number in range(EVENTS):
        ask(address, "POST", "/volumes/create", {"Name": f"{NAME}-{number}"})
        ask(address, "DELETE", f"/volumes/{NAME}-{number}")
    hearing.join()
    return statistics.median(found)


def _median(client: Client, target: str, samples: int = 30) -> float:
    """Return the milliseconds of a request that was made before."""
    client.ask("GET", target)
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        client.ask("GET", target)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _memory(pid: int) -> float:
    return size(pid) / 1000


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _line(what: str, value: float, unit: str, most: float | None = None) -> None:
    line = f"  {what:<34}{value:10.1f} {unit:<3}"
    if most is not None:
        line += f"   target {most:g}: {'yes' if value <= most else 'NO'}"
    print(line, flush=True)
