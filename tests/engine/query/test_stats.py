"""`stats`: numbers of the cgroup, else of /proc."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from rootless.cli.verbs.container.stats import _binary, _decimal
from rootless.engine.query import stats
from rootless.engine.query.stats import Sample
from tests.engine.attach.test_terminal import Session
from tests.lib.images import free_port
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

HEAD = "CONTAINER ID   NAME   CPU %   MEM USAGE / LIMIT   MEM %   NET I/O   BLOCK I/O   PIDS"


def test_busy_container_shows_more_cpu_than_an_idle_one(rless: Product) -> None:
    rless.detach("busy", "", "sh", "-c", "while :; do :; done")
    rless.detach("idle", "", "sleep", "600")
    done = rless("stats", "--no-stream").expect()
    assert done.lines()[0].split() == HEAD.split()
    found = {line.split()[1]: line.split() for line in done.lines()[1:]}
    assert set(found) == {"busy", "idle"}
    assert float(found["busy"][2].rstrip("%")) > 5
    assert float(found["idle"][2].rstrip("%")) < 5
    assert found["idle"][3].endswith("iB")
    assert found["idle"][-1] == "1"
    rless("rm", "-f", "busy", "idle").expect()


def test_memory_is_counted(rless: Product) -> None:
    rless.detach("mm", "", "sh", "-c", "x=$(head -c 30000000 /dev/zero | tr '\\0' a); sleep 600; :")

    def used() -> float:
        (row,) = rless("stats", "--no-stream", "--format", "json", "mm").expect().lines()
        size = json.loads(row)["MemUsage"].split()[0]
        return float(size.removesuffix("MiB")) if size.endswith("MiB") else 0.0

    wait_for(lambda: used() > 25, "30 MB", 30)
    rless("rm", "-f", "mm").expect()


def test_stats_can_be_formatted_and_shows_ids(rless: Product) -> None:
    container = rless.detach("ss", "", "sleep", "600")
    rless.detach("ended", "", "true")
    wait_for(lambda: "Exited" in rless("ps", "-a").out, "its end")
    out = rless("stats", "--no-stream", "--format", "{{.Name}} {{.ID}} {{.PIDs}}").expect().out
    assert out == f"ss {container[:12]} 1\n"
    out = rless("stats", "--no-stream", "--no-trunc", "--format", "{{.ID}}", "ss").expect().out
    assert out == f"{container}\n"
    out = rless("stats", "--no-stream", "--format", "{{.Container}}", "ss").expect().out
    assert out == "ss\n"  # as it was asked for
    rows = rless("stats", "--no-stream", "-a", "--format", "json").expect().lines()
    found = {json.loads(row)["Name"]: json.loads(row) for row in rows}
    assert found["ended"] == {
        "BlockIO": "0B / 0B", "CPUPerc": "0.00%", "Container": found["ended"]["ID"],
        "ID": found["ended"]["ID"], "MemPerc": "0.00%", "MemUsage": "0B / 0B", "Name": "ended",
        "NetIO": "0B / 0B", "PIDs": "0",
    }  # fmt: skip
    assert "no such container" in rless("stats", "nosuch").expect(1).one_line_error()
    rless("rm", "-f", "ss", "ended").expect()


def test_stats_runs_until_interrupted(rless: Product) -> None:
    rless.detach("ss", "", "sleep", "600")
    process = rless.start("stats", "--format", "{{.Name}}")
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == [b"ss\n", b"ss\n"]
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    screen = Session(rless, "stats")
    try:
        screen.expect(b"\x1b[H\x1b[J")
        screen.expect(b"\x1b[H\x1b[J")
        os.kill(screen.process.pid, signal.SIGINT)
        assert screen.wait() == 130
    finally:
        os.close(screen.master)
        os.close(screen.slave)
    rless("rm", "-f", "ss").expect()


def test_units_match_docker() -> None:
    assert [_binary(size) for size in (0, 512, 1536, 1 << 20, 25_276_000_000)] == [
        "0B", "512B", "1.5KiB", "1MiB", "23.54GiB",
    ]  # fmt: skip
    assert [_decimal(size) for size in (0, 999, 1450, 12_345_678)] == [
        "0B", "999B", "1.45kB", "12.3MB",
    ]  # fmt: skip


def test_cpu_is_computed_from_a_difference() -> None:
    class Ended:
        facts: dict[str, object] = {}

        def init(self) -> None:
            return None

    one, two = Sample(Ended()), Sample(Ended())  # type: ignore[arg-type]
    assert two.cpu_percent(one) == 0
    one.running = two.running = True
    one.at, two.at, one.cpu, two.cpu = 10.0, 12.0, 5.0, 6.0
    assert two.cpu_percent(one) == 50


def test_cgroup_numbers_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel accounts for it, its numbers are taken, and the cache is no use."""
    for name, text in {
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "memory.current": "3000\n",
        "memory.stat": "anon 5\ninactive_file 1000\n",
        "memory.max": "4000\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
        "pids.current": "7\n",
    }.items():
        (tmp_path / name).write_text(text)

    class Live:
        facts: dict[str, object] = {}

        def init(self) -> tuple[int, int]:
            return os.getpid(), 0

        def run_record(self) -> dict[str, str]:
            return {"cgroup": str(tmp_path)}

    monkeypatch.setattr(stats.processes, "of", lambda container: [])
    sample = Sample(Live())  # type: ignore[arg-type]
    assert (sample.cpu, sample.memory, sample.limit, sample.pids) == (2.5, 2000, 4000, 7)
    assert (sample.read, sample.written) == (11, 22)
    assert sample.memory_percent() == 50
    (tmp_path / "memory.max").write_text("max\n")
    assert Sample(Live()).limit > 1 << 20  # type: ignore[arg-type]


@pytest.mark.needs("tun", "pasta")
def test_traffic_of_published_ports_is_counted(rless: Product) -> None:
    """Also that of a client on the host's loopback, which pasta does not send by eth0."""
    port = free_port()
    script = "mkdir /w; head -c 300000 /dev/zero >/w/f; exec httpd -f -p 80 -h /w"
    rless.detach("web", f"--network pasta -p 127.0.0.1:{port}:80", "sh", "-c", script)
    for _ in range(2):
        wait_for(lambda: fetched(port) > 300_000, "the file", 30)
    text = rless("stats", "--no-stream", "--format", "json", "web").expect().out
    received, sent = (parsed(part) for part in json.loads(text)["NetIO"].split(" / "))
    assert 600_000 < sent < 1_000_000
    assert 100 < received < 100_000
    rless("rm", "-f", "web").expect()


def parsed(shown: str) -> float:
    """Return the bytes of Docker's "1.23MB"."""
    number = shown.rstrip("BkMG")
    unit = shown[len(number) :].removesuffix("B")
    return float(number) * 1000 ** " kMG".index(unit or " ")


def fetched(port: int) -> int:
    """Ask for the file; return how many bytes came."""
    count = 0
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            while data := client.recv(1 << 16):
                count += len(data)
    except OSError:
        pass  # it does not listen yet
    return count
