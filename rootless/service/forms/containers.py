"""Containers as the API shows them, from the rows of `ps` and from `inspect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.output import container_status
from rootless.engine.query import inspect
from rootless.engine.query.ps import LIVING
from rootless.engine.state.container import find, load

_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def inspected(name: str, size: bool = False) -> dict[str, Any]:
    """Return all about a container.

    Raises:
        RlessError: there is none.
    """
    found = inspect.inspect_container(name, size)
    found["State"]["Status"] = _state(found["State"]["Status"])
    return found


def has_to_ask(name: str) -> bool:
    """Tell whether to describe a container takes a look into its network namespace.

    That is done in a child process: the library for it has a loop of its own.

    Raises:
        RlessError: there is none.
    """
    container = find(name)
    return container.facts.get("network") == "pasta" and container.init() is not None


def _state(status: str) -> str:
    """Return one of Docker's words: that of another machine may run is no news here."""
    return status if status in _STATES else "exited"


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Return a container of a list."""
    command = row["command"]
    up = row["status"] in LIVING
    image_id = row["image_id"] or ""
    container = load(row["id"])
    networks, mode = inspect.networks_of(container) if container else ({}, "")
    return {
        "Id": row["id"],
        "Names": [f"/{row['name']}"],
        "Image": row["image"] or "",
        "ImageID": image_id,
        "Command": command if isinstance(command, str) else " ".join(command),
        "Created": int(row["created"]),
        "Ports": _ports(row) if up else [],
        "Labels": row["labels"],
        "State": _state(row["status"]),
        "Status": container_status(row),
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {"Networks": networks},
        "Mounts": [inspect.mount_point(mount) for mount in row["mounts"]],
    }


def _ports(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the published ports, then those that are only exposed."""
    found: list[dict[str, Any]] = []
    published = set()
    for text in row["ports"]:
        port, address, number = inspect.split_port(text)
        private, _, protocol = port.partition("/")
        published.add(port)
        if private.isdigit() and number.isdigit():
            found.append(
                {
                    "IP": address or "0.0.0.0",
                    "PrivatePort": int(private),
                    "PublicPort": int(number),
                    "Type": protocol or "tcp",
                }
            )
    for exposed in row["exposed"]:
        private, _, protocol = exposed.partition("/")
        protocol = protocol or "tcp"
        if f"{private}/{protocol}" not in published and private.isdigit():
            found.append({"PrivatePort": int(private), "Type": protocol})
    return found


def sizes(ids: list[str]) -> dict[str, dict[str, int]]:
    """Return how large containers are, by their ids; for a child process."""
    from rootless.engine.query import ps

    found = {}
    for one in ids:
        container = load(one)
        if container is not None:
            own, whole = ps.sizes(container)
            found[one] = {"SizeRw": own, "SizeRootFs": whole}
    return found
