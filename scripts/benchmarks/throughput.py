"""How much the network carries: rless beside plain pasta, by iperf3, both ways.

Both run the iperf3 of this machine (`host:`, `--config-net`), so that only what rless adds to
pasta is compared. The other end is outside: in the host's network, by the host's own address.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from statistics import median

from benchmarks.peers import Peers

NAME = "throughput"
LEAST = 0.95  # of plain pasta
_SECONDS = 2
_PASTA = "pasta -q -f --config-net --no-map-gw -T none -U none".split()
_PASTA += "-a 10.0.2.100 -n 24 -g 10.0.2.2".split()


def weigh(peers: Peers, runs: int) -> None:
    """Print Gbit/s out of a container, and into it by a published port."""
    print(f"\n{NAME}: Gbit/s by iperf3, one connection, median of {runs}")
    missing = [name for name in ("iperf3", "pasta") if not shutil.which(name)]
    if missing:
        print(f"bench: missing, left out: {' '.join(missing)} (packages: iperf3 passt)")
        return
    address = own_address()
    if address is None:
        print("bench: this host has no address but its loopback's: left out")
        return
    for way in ("out", "in"):
        programs = (None, *(program for program, _ in peers.installations()))
        found: dict[str | None, list[float]] = {program: [] for program in programs}
        for _ in range(runs):
            for program, taken in found.items():
                taken.append(carry(peers, program, way, address))
        plain, ours = median(found[None]), median(found[peers.rless])
        reached = "yes" if ours >= LEAST * plain else "NO"
        before = f"before {median(found[peers.before]):6.2f}   " if peers.before else ""
        print(f"  {way:<4} plain pasta {plain:6.2f}   {before}rless {ours:6.2f}   "
              f"{ours / plain:.2f} x pasta   target {LEAST}: {reached}", flush=True)  # fmt: skip


def carry(peers: Peers, program: str | None, way: str, address: str) -> float:
    """Return the Gbit/s of one transfer by an rless, or by plain pasta."""
    port = free_port()
    server = ["iperf3", "-s", "-1", "-p", str(port)]
    client = ["iperf3", "-J", "-c", address, "-p", str(port), "-t", str(_SECONDS)]
    publish = f"{port}:{port}"
    if program:
        flags = ["-p", publish] if way == "in" else ["--add-host", "me:host-gateway"]
        inside = [program, "run", "--rm", *flags, "host:"]
    else:
        inside = [*_PASTA, "-u", "none", "-t", publish if way == "in" else "none", "--"]
    listen = [*inside, *server] if way == "in" else server
    send = client if way == "in" else [*inside, *client]
    held = subprocess.Popen(
        listen, env=peers.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(50):  # until the server listens
            time.sleep(0.1)
            said = json.loads(peers.run(send).stdout or "{}")
            if "end" in said and "sum_received" in said["end"]:
                return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        held.send_signal(signal.SIGTERM)
        held.wait()
    raise SystemExit(f"bench: {' '.join(send)}: {said.get('error')}")


def own_address() -> str | None:
    """Return the address of the interface with the default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
