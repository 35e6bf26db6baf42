"""What the processes take that keep an idle container: proportional set size."""

from __future__ import annotations

import os
import time

from benchmarks.life import IDLE, QUIET
from benchmarks.peers import IMAGE, Peers

NAME = "idle memory"
MOST = 300  # kB of all processes that rless adds to one container
_NETWORK = ("pasta", "pasta.avx2", "passt", "slirp4netns")  # apart: they are the same for all


def weigh(peers: Peers) -> None:
    """Print the memory of an idle container, without the application and its network."""
    print(f"\n{NAME}: kB (PSS) of the processes beside an idle container, pasta apart")
    ours = [(program, peers.image, own) for program, own in peers.installations()]
    for program, image, own in (("podman", IMAGE, peers.environment), *ours):
        if program in peers.missing:
            continue
        for network in (QUIET, []):
            before = set(processes())
            peers.check([program, "run", "-d", "--name", "idle", *network, image, *IDLE], own)
            time.sleep(1)  # what a start needs only has ended, memory is given back
            added = [pid for pid in processes() if pid not in before]
            parts = {pid: (comm(pid), size(pid)) for pid in added}
            peers.run([program, "rm", "-f", "idle"], own)
            kept = {pid: part for pid, part in parts.items() if part[0] not in _NETWORK}
            total = sum(part[1] for part in kept.values())
            names = ", ".join(f"{name} {kb}" for name, kb in parts.values())
            label = f"{os.path.basename(program)} {' '.join(network)}".strip()
            label += ", before" * (program == peers.before)
            line = f"  {label:<28}{total:6}  ({names})"
            if program == peers.rless:
                line += f"   target {MOST}: {'yes' if total <= MOST else 'NO'}"
            print(line, flush=True)


def processes() -> list[int]:
    """Return the pids of ours that are not in a container."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                own = os.readlink(f"/proc/{name}/ns/pid") == os.readlink("/proc/self/ns/pid")
                if own and int(name) != os.getpid():
                    found.append(int(name))
        except OSError:
            continue
    return found


def comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


def size(pid: int) -> int:
    """Return the proportional set size of a process, in kB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
