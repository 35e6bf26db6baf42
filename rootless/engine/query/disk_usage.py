"""The disk usage of the storage, and how much of it nothing needs: `system df`.

Everything in the storage is counted, by blocks and each inode once, so the sum is that of du(1) for
the directory. Files of subordinate ids are read in a user namespace that maps all of them.
"""

from __future__ import annotations

import os

from rootless import paths
from rootless.engine.query.ps import LIVING, list_containers
from rootless.engine.state import volumes
from rootless.errors import RlessError
from rootless.image.store.ownership import everything
from rootless.image.store.store import Store, blob_path, layer_dir
from rootless.linux.idmap import call_in_userns
from rootless.linux.tree import disk_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Directories whose entries are told apart; what lies elsewhere counts for a whole.
_BY_ENTRY = ("volumes", "containers", "tmp", "partial")
_BY_ENTRY_BELOW = ("layers", "blobs", "images")
_OF_CONTAINERS = ("names", "run")
_BUILD = "build"
_IN_FLIGHT = ("tmp", "locks", "partial")


class Share:
    """One line of the summary: how many exist and are in use, their bytes, the bytes not needed."""

    __slots__ = ("active", "reclaimable", "size", "total")

    def __init__(self, total: int, active: int, size: int, reclaimable: int) -> None:
        self.total = total
        self.active = active
        self.size = size
        self.reclaimable = reclaimable


class Usage:
    """The whole storage, measured.

    Attributes:
        images, containers, volumes, build_cache: a dict for each, with its bytes as "size".
        shares: "Images", "Containers", "Local Volumes", "Build Cache", "In Flight", "Caches"
            -> Share.
    """

    __slots__ = ("build_cache", "containers", "images", "shares", "volumes")

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.containers: list[dict[str, Any]] = []
        self.volumes: list[dict[str, Any]] = []
        self.build_cache: list[dict[str, Any]] = []
        self.shares: dict[str, Share] = {}

    @property
    def size(self) -> int:
        """Return the bytes of all of it."""
        return sum(share.size for share in self.shares.values())


def total(names: Sequence[str] = (".",)) -> int:
    """Return the bytes on disk of some entries of the storage; of all of it by default."""
    return sum(sizes(names).values())


def sizes(names: Sequence[str]) -> dict[str, int]:
    """Return entry of the storage -> bytes on disk."""
    if not names:
        return {}
    found: dict[str, int] = call_in_userns(everything(), _sizes, paths.storage_root(), list(names))
    return found


def _sizes(storage: str, names: list[str]) -> dict[str, int]:
    """Return path below the storage -> bytes; runs as root of all our ids."""
    seen: set[tuple[int, int]] = set()
    found = {}
    for name in names:
        parent, leaf = os.path.split(f"{storage}/{name}")
        try:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            found[name] = disk_usage(fd, leaf, seen)
        finally:
            os.close(fd)
    return found


def _all_sizes(storage: str) -> dict[str, int]:
    """Return the bytes of everything; directories whose entries are told apart by themselves."""
    wanted: list[str] = []
    between = ["."]
    for top in _entries(storage, "."):
        if top in _BY_ENTRY:
            between.append(top)
        elif top in (_BUILD, *_BY_ENTRY_BELOW):
            between.append(top)
            for middle in _entries(storage, top):
                between.append(middle)
                wanted += _entries(storage, middle)
        else:
            wanted.append(top)
    for directory in between:
        if directory in _BY_ENTRY:
            wanted += _entries(storage, directory)
    # What a container and an image have in common by a hard link counts for the image.
    found = _sizes(storage, sorted(wanted, key=lambda name: not name.startswith("layers/")))
    for directory in between:
        try:
            found[directory] = 512 * os.stat(f"{storage}/{directory}").st_blocks
        except FileNotFoundError:
            continue  # it went meanwhile
    return found


def _entries(storage: str, directory: str) -> list[str]:
    try:
        names = os.listdir(f"{storage}/{directory}")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return names if directory == "." else [f"{directory}/{name}" for name in names]


def measure() -> Usage:
    """Measure the storage.

    Raises:
        RlessError: a part of it cannot be read.
    """
    storage = paths.storage_root()
    rows = list_containers(ended_too=True)
    try:
        sizes: dict[str, int] = call_in_userns(everything(), _all_sizes, storage)
    except RlessError as error:
        raise error.within("cannot measure the storage") from error
    usage = Usage()
    _add_images(usage, storage, sizes, rows)
    _add_containers(usage, sizes, rows)
    _add_volumes(usage, sizes)
    _add_build_cache(usage, storage, sizes)
    flight = {name: size for name, size in sizes.items() if _top(name) in _IN_FLIGHT}
    waiting = {name.split(".")[0] for name in flight if name.startswith(("tmp/", "partial/"))}
    usage.shares["In Flight"] = Share(len(waiting), len(waiting), sum(flight.values()), 0)
    counted = (_BUILD, *_BY_ENTRY, *_BY_ENTRY_BELOW, *_OF_CONTAINERS, *_IN_FLIGHT)
    caches = {name: size for name, size in sizes.items() if _top(name) not in counted}
    kept = sum(size for name, size in caches.items() if name not in CACHES)
    size = sum(caches.values())
    number = len([name for name in caches if name in CACHES])
    usage.shares["Caches"] = Share(number, 0, size, size - kept)
    return usage


# Prepared for speed, made again when they are missed.
CACHES = ("host", "seccomp", "flat")


def _top(name: str) -> str:
    return name.partition("/")[0]


def _add_images(
    usage: Usage, storage: str, sizes: dict[str, int], rows: list[dict[str, Any]]
) -> None:
    store = Store(storage)
    records: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    for kind in ("ids", "names"):
        for record in store.records(kind):
            records.setdefault(record["id"], record)
            if kind == "names":
                names.setdefault(record["id"], []).append(record["name"])
    used: dict[str, int] = {}
    for row in rows:
        if row["image_id"]:
            used[row["image_id"]] = used.get(row["image_id"], 0) + 1
    of_layers: dict[str, list[str]] = {}
    for name in sizes:
        if name.startswith("layers/") and name.count("/") == 2:
            of_layers.setdefault(os.path.basename(name).split(".")[0], []).append(name)
    files = {
        image: _files_of(storage, record, sizes, of_layers) for image, record in records.items()
    }
    owners: dict[str, int] = {}
    for found in files.values():
        for name in found:
            owners[name] = owners.get(name, 0) + 1
    for image, record in records.items():
        size = sum(sizes[name] for name in files[image])
        shared = sum(sizes[name] for name in files[image] if owners[name] > 1)
        usage.images.append(
            {
                "id": image,
                "names": names.get(image, []),
                "created": record["created"],
                "size": size,
                "shared": shared,
                "containers": used.get(image, 0),
            }
        )
    mine = {name: size for name, size in sizes.items() if _top(name) in _BY_ENTRY_BELOW}
    needed = {name for image in used if image in files for name in files[image]}
    free = sum(size for name, size in mine.items() if name.count("/") == 2 and name not in needed)
    active = sum(1 for image in records if image in used)
    usage.shares["Images"] = Share(len(records), active, sum(mine.values()), free)


def _add_build_cache(usage: Usage, storage: str, sizes: dict[str, int]) -> None:
    """Move the layers that only the build cache keeps from the images to it."""
    from rootless.image.store import build_cache
    from rootless.image.transfer import prune_build_cache

    cache = prune_build_cache.measure(Store(storage))
    of_names: dict[str, int] = {}
    for path, size in sizes.items():
        if path.startswith("layers/") and path.count("/") == 2:
            name = os.path.basename(path).split(".")[0]
            of_names[name] = of_names.get(name, 0) + size
    mine = {
        chain: of_names.get(os.path.basename(layer_dir("", "", chain)), 0)
        for chain in cache.of_layers
    }
    for key, entry in cache.entries.items():
        usage.build_cache.append(
            {
                "id": key,
                "size": mine.get(entry.chain[-1], 0),
                "created": entry.created,
                "used": entry.used,
                "shared": key in cache.shared,
                "type": "regular",
                "text": entry.text,
            }
        )
    for name, used in build_cache.mounts(storage).items():
        size = sizes.get(f"{_BUILD}/mounts/{name}", 0)
        usage.build_cache.append(
            {"id": name, "size": size, "created": 0.0, "used": used, "shared": False,
             "type": "exec.cachemount", "text": ""}
        )  # fmt: skip
    of_layers = sum(mine.values())
    images = usage.shares["Images"]
    images.size -= of_layers
    images.reclaimable = max(0, images.reclaimable - of_layers)
    own = sum(size for name, size in sizes.items() if _top(name) == _BUILD)
    usage.shares["Build Cache"] = Share(
        len(usage.build_cache), len(cache.shared), of_layers + own, of_layers + own
    )


def _files_of(
    storage: str, record: dict[str, Any], sizes: dict[str, int], of_layers: dict[str, list[str]]
) -> list[str]:
    """Return what is on disk of an image: its layers for every map, its blobs.

    Args:
        of_layers: name of a layer -> its directories and facts, for every map.
    """
    leaves = {os.path.basename(layer_dir("", "", chain)) for chain in record["chain"]}
    found = [name for leaf in leaves for name in of_layers.get(leaf, ())]
    others = {f"images/ids/{record['id'][7:]}.json"}
    for digest in (record["id"], record["digest"]):
        if digest:
            others.add(blob_path(storage, digest).removeprefix(f"{storage}/"))
    return found + [name for name in others if name in sizes]


def _add_containers(usage: Usage, sizes: dict[str, int], rows: list[dict[str, Any]]) -> None:
    free = active = 0
    for row in rows:
        size = sizes.get(f"containers/{row['id']}", 0)
        usage.containers.append({**row, "size": size})
        if row["status"] in LIVING:
            active += 1
        else:
            free += size
    mine = sum(
        size for name, size in sizes.items() if _top(name) in ("containers", *_OF_CONTAINERS)
    )
    usage.shares["Containers"] = Share(len(rows), active, mine, free)


def _add_volumes(usage: Usage, sizes: dict[str, int]) -> None:
    used = volumes.users()
    free = active = 0
    for volume in volumes.all_volumes():
        size = sizes.get(f"volumes/{volume.name}", 0)
        links = len(used.get(volume.name, ()))
        usage.volumes.append(
            {"name": volume.name, "links": links, "size": size, "labels": volume.labels}
        )
        active += bool(links)
        free += 0 if links else size
    mine = sum(size for name, size in sizes.items() if _top(name) == "volumes")
    usage.shares["Local Volumes"] = Share(len(usage.volumes), active, mine, free)
