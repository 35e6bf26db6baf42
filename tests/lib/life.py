"""Containers for the tests of their lives: obedient, stubborn, and how they are looked at."""

from __future__ import annotations

import json
from typing import Any

from tests.lib.product import Product, wait_for

# Ends with 0 by TERM, and says so; says "ready" once it can.
OBEDIENT = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
# `sleep` as process 1 has no handler, so the kernel gives it no TERM.
STUBBORN = ("sleep", "600")


def obedient(rless: Product, name: str, flags: str = "") -> str:
    """Start a container that ends at once when it is asked to; return its id."""
    made = rless.detach(name, flags, "sh", "-c", OBEDIENT)
    wait_for(lambda: "ready" in rless("logs", name).out, "the application")
    return made


def facts(rless: Product, container_id: str) -> dict[str, Any]:
    """Return container.json."""
    path = rless.storage / "containers" / container_id / "container.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row(rless: Product, name: str) -> dict[str, Any]:
    """Return what `ps` says of a container."""
    done = rless("ps", "-a", "--no-trunc", "--format", "json").expect()
    rows = [json.loads(line) for line in done.lines()]
    found: dict[str, Any] = next(entry for entry in rows if entry["Names"] == name)
    return found


def init_of(rless: Product, container_id: str) -> int:
    """Return the pid of a container's first process."""
    return int(json.loads((rless.live / container_id).read_text())["init"][0])


def monitor_of(rless: Product, container_id: str) -> int:
    """Return the pid of a container's monitor."""
    return int(json.loads((rless.live / container_id).read_text())["monitor"][0])
