"""Remove what nothing needs: ended containers, unused volumes and images, what a SIGKILL left."""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.engine import timestamps
from rootless.engine.images import images
from rootless.engine.manage.remove import remove
from rootless.engine.networks import store as networks_
from rootless.engine.query import disk_usage, filters
from rootless.engine.query.ps import LIVING, list_containers
from rootless.engine.state import volumes as volumes_
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.query.filters import Filters


class Gone:
    """What was removed: names as Docker prints them, bytes on disk, and what could not be."""

    __slots__ = ("failures", "names", "size")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.size = 0
        self.failures: list[RlessError] = []


def until(given: Filters) -> float:
    """Return the moment of the filter `until`, in seconds of the epoch; without it, the future.

    Raises:
        RlessError: it is not a time.
    """
    found = [timestamps.parse(text, "--filter until") for text in given.get("until", ())]
    return min(found) if found else time.time() + 1


def containers(given: Filters) -> Gone:
    """Remove the containers that do not run.

    Args:
        given: until (made before), label, label!.
    """
    limit = until(given)
    gone = Gone()
    chosen = [
        row["id"]
        for row in list_containers(ended_too=True)
        if row["status"] not in (*LIVING, "unknown")
        and row["created"] < limit
        and filters.matches_labels(row["labels"], given)
    ]
    sizes = disk_usage.sizes([f"containers/{identifier}" for identifier in chosen])
    for identifier, error in remove(chosen):
        if error is None:
            gone.names.append(identifier)
            gone.size += sizes.get(f"containers/{identifier}", 0)
        else:
            gone.failures.append(error)
    return gone


def volumes(given: Filters, every: bool) -> Gone:
    """Remove the volumes that no container has.

    Args:
        given: label, label!.
        every: named ones, too.
    """
    gone = Gone()
    volumes_.clear_leftovers()
    chosen = [
        volume.name
        for volume in volumes_.unused(every)
        if filters.matches_labels(volume.labels, given)
    ]
    sizes = disk_usage.sizes([f"volumes/{name}" for name in chosen])
    for name in chosen:
        try:
            volumes_.remove(name)
        except RlessError as error:
            gone.failures.append(error)  # somebody has begun to use it
            continue
        gone.names.append(name)
        gone.size += sizes.get(f"volumes/{name}", 0)
    return gone


def networks(given: Filters) -> list[str]:
    """Remove the networks that no container was made for; return their names.

    Args:
        given: until (made before), label, label!.
    """
    limit = until(given)
    gone = []
    for network in networks_.every():
        if (
            network.name == networks_.DEFAULT
            or network.record["created"] >= limit
            or not filters.matches_labels(network.record["labels"], given)
            or networks_.users(network)
        ):
            continue
        networks_.remove(network)
        gone.append(network.name)
    return gone


def build_cache(given: Filters, every: bool, keep: int = 0) -> Gone:
    """Remove entries of the build cache, what only they need, and directories of cache mounts.

    Args:
        given: until (last used before).
        every: also those whose result is part of an image.
        keep: bytes of layers that may stay.
    """
    from rootless.image.store.build_cache import mounts
    from rootless.image.store.store import Store
    from rootless.image.transfer import prune_build_cache

    storage = paths.storage_root()
    sizes = disk_usage.sizes([f"build/mounts/{name}" for name in mounts(storage)])
    gone = Gone()
    gone.names, freed = prune_build_cache.prune(
        Store(storage),
        every=every,
        before=until(given) if "until" in given else None,
        keep=keep,
        mounts={os.path.basename(path): size for path, size in sizes.items()},
    )
    gone.size = freed.bytes
    if freed.is_left:
        log.warn(
            "a pull or a build is at work: layers that nothing needs stay until the next prune"
        )
    return gone


class SystemGone:
    """What `system prune` removed."""

    __slots__ = ("build_cache", "containers", "images", "networks", "size", "volumes")

    def __init__(self) -> None:
        self.build_cache: list[str] = []
        self.containers = Gone()
        self.images: list[str] = []
        self.networks: list[str] = []
        self.volumes = Gone()
        self.size = 0


def system(given: Filters, every: bool, with_volumes: bool) -> SystemGone:
    """Remove all that nothing uses: containers, networks, volumes, images, caches, leftovers.

    Of the build cache that is what no image has; with `every` all of it.

    Args:
        given: until, label, label!; volumes know no `until`.
        every: images that still have a name, too, and what was prepared for speed.
        with_volumes: anonymous volumes, too; with `every` named ones as well.
    """
    before = disk_usage.total()
    gone = SystemGone()
    gone.containers = containers(given)
    gone.networks = networks(given)
    if with_volumes:
        labels = {key: given[key] for key in given if key != "until"}
        gone.volumes = volumes(labels, every)
    if not any(key.startswith("label") for key in given):  # an entry has none
        gone.build_cache = build_cache(given, every).names
    gone.images, _ = images.prune(given, every)
    if not given:
        _leftovers(every)
    gone.size = max(0, before - disk_usage.total())
    return gone


def _leftovers(every: bool) -> None:
    """Clear what dead commands left and, with `every`, what can be made again at its next use."""
    from rootless.image.store.ownership import delete_any
    from rootless.image.store.staging import clear_leftovers

    storage = paths.storage_root()
    clear_leftovers(storage)
    volumes_.clear_leftovers()
    busy = any(row["status"] in LIVING for row in list_containers())
    if every and not busy:  # a container of `host:` has the skeleton as its lower layer
        for name in disk_usage.CACHES:
            delete_any(storage, name)
    _old_boots(storage)


def _old_boots(storage: str) -> None:
    """Delete the notes of boots that have none of a process: of earlier ones of this machine.

    One of another machine that shares the storage may be among them; it makes its own again.
    """
    from rootless.image.store.ownership import delete_any

    now = paths.boot_id()
    for boot in os.listdir(f"{storage}/run"):
        try:
            noted = os.listdir(f"{storage}/run/{boot}/live")
        except FileNotFoundError:
            noted = []
        if boot != now and not set(noted) - {"booted"}:
            delete_any(f"{storage}/run", boot)
