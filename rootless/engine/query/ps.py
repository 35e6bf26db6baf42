"""The rows of `ps`: one pass over the containers' directories, without a namespace.

`Container.status` gives the true state of each; the rest is read from its files.
"""

from __future__ import annotations

import os
import stat

from rootless.engine.state.container import all_ids, is_alive, load, read_json, run_records_root
from rootless.engine.state.reconcile import reconcile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.state.container import Container
    from rootless.engine.state.records import ContainerRecord, HealthRecord, RunRecord

# Neither has ended.
LIVING = ("running", "paused", "restarting")


def list_containers(ended_too: bool = False) -> list[dict[str, Any]]:
    """Return all about containers that lists show, newest first; only living ones by default."""
    reconcile()
    rows = []
    ids = all_ids()
    # After the ids, so none is missed: one call in place of one for each container.
    recorded = frozenset(os.listdir(run_records_root()))
    for container_id in ids:
        container = load(container_id)
        if container is None:
            continue
        status, code = container.status(container_id in recorded)
        if status in LIVING or ended_too:
            rows.append(describe(container, status, code))
    return sorted(rows, key=lambda row: float(row["created"]), reverse=True)


def describe(container: Container, status: str, code: int | None) -> dict[str, Any]:
    """Return the row of one container; times are seconds since 1970, None where there is none."""
    facts = container.facts
    record: RunRecord = container.run_record() if status in LIVING else {}
    ended = container.exit_record() if status != "created" else None
    init = record.get("init") or (0, 0)
    lost, without_ports = _lost(record)
    return {
        "id": container.id,
        "name": facts["name"],
        "image": facts["image"],
        "image_id": facts.get("image_id"),
        "command": facts["command"],
        "created": facts["created"],
        "status": status,
        "exit_code": ended["code"] if ended and status == "restarting" else code,
        "started": record.get("started") or (ended.get("started") if ended else None),
        "finished": ended["finished"] if ended else None,
        "pid": 0 if status == "restarting" else init[0],
        # What was asked for, as long as nothing is published.
        "ports": [] if without_ports else record.get("ports", facts["ports"]),
        "exposed": facts.get("exposed") or [],
        "labels": facts["labels"] or {},
        "mounts": facts.get("mounts") or [],
        "network": facts.get("network") or "",
        "networks": _networks(facts, record),
        "network_lost": lost,  # what of it and why, or ""
        "health": health(container, status),
    }


def _lost(record: RunRecord) -> tuple[str, bool]:
    """Return (what of its network a container has lost and why, whether its ports are lost)."""
    pasta = record.get("pasta")
    if pasta and not is_alive(pasta):
        return "the network is lost: pasta has ended", True
    if record.get("networks") and is_alive(record.get("init")):
        from rootless.engine.networks.attachment import why_lost

        return why_lost(record)
    return "", False


def _networks(facts: ContainerRecord, record: RunRecord) -> list[tuple[str, str]]:
    """Return (name, id) of the networks of several containers; without an id where it is not in."""
    if "networks" in record:
        return [(place["name"], place["id"]) for place in record["networks"]]
    return [(network["name"], "") for network in facts.get("request", {}).get("networks", ())]


def health(container: Container, status: str) -> str | None:
    """Return "starting", "healthy" or "unhealthy"; None: it has no health check, or is not up."""
    if status not in LIVING or not container.facts.get("health"):
        return None
    checked: HealthRecord | None = read_json(f"{container.directory}/health.json")
    return checked["status"] if checked else "starting"


def sizes(container: Container) -> tuple[int, int]:
    """Return how many bytes a container's own files have, and those with the image's.

    Raises:
        RlessError: the user namespace that may read them cannot be made.
    """
    from rootless.linux import idmap as idmaps

    try:
        own, merged = _measure(container.directory)
    except PermissionError:  # directories that an id of the container keeps to itself
        own, merged = idmaps.call_in_userns(container.idmap(), _measure, container.directory)
    image = _image_size(container.facts.get("image_id"))
    if merged:  # a copy of the whole image (the driver copy): what it has more is the container's
        return max(0, merged - image), merged
    return own, own + image


def _measure(directory: str) -> tuple[int, int]:
    return tree_size(f"{directory}/upper"), tree_size(f"{directory}/merged")


def tree_size(top: str) -> int:
    """Return the bytes of all files below a directory, each inode once; 0: no such directory.

    Raises:
        PermissionError: a directory cannot be read.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [top]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue  # it went meanwhile
    return total


def _image_size(image_id: str | None) -> int:
    if not image_id:
        return 0
    from rootless import paths
    from rootless.image.store.store import Store

    image = Store(paths.storage_root()).lookup(image_id)
    return image.size if image else 0
