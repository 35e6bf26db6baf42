"""Remove images: names first, then the image, then what no image refers to any more.

References are counted by reading the records that are there, not by a counter that could be
wrong. A pull holds the store's lock shared, because it relies on layers that no record names
yet; deletion of layers needs it alone, and leaves them to a later `prune` if it cannot have it.
"""

from __future__ import annotations

import contextlib
import os

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.inflight import InFlight, clear_leftovers, store_lock
from rootless.image.ownership import everything
from rootless.image.records import blob_path
from rootless.image.reference import familiar_repository
from rootless.image.store import Store, layer_dir
from rootless.linux.idmap import call_in_userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def remove(store: Store, name: str, *, force: bool, used: Iterable[str]) -> list[str]:
    """Remove a name, and the image with its last name; return lines as Docker prints them.

    Args:
        name: a name takes that name away; an id, or the start of one, the image itself.
        used: ids of images that containers are made of; these keep their layers.

    Raises:
        RlessError: no such image; in use, or several names for an id, and not `force`.
    """
    image = store.lookup(name)
    if image is None:
        raise RlessError(f"no such image: {escape(name)}", exit_code=1)
    named = [(path, record) for path, record in _named_records(store) if record["id"] == image.id]
    chosen = [(path, record) for path, record in named if record["name"] == image.name]
    if image.name == image.id or not chosen:
        if len(named) > 1 and not force:
            raise RlessError(
                f"image {image.id[7:19]} has {len(named)} names",
                "remove them by name, or all with --force",
                exit_code=1,
            )
        chosen = named
    is_last = len(chosen) == len(named)
    is_used = image.id in set(used)
    if is_last and is_used and not force:
        raise RlessError(
            f"image {escape(name)} is used by a container",
            "remove the container first, or use --force to take the name away only",
            exit_code=1,
        )
    lines = []
    for path, record in chosen:
        os.unlink(path)
        lines.append(f"Untagged: {familiar_repository(record['name'])}")
    if is_last and not is_used:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{store.root}/images/ids/{image.id[7:]}.json")
        lines.append(f"Deleted: {image.id}")
        collect(store, set(image.chain))
    return lines


def _named_records(store: Store) -> list[tuple[str, dict[str, Any]]]:
    directory = f"{store.root}/images/names"
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(directory)):
            record = store.read(f"{directory}/{entry}")
            if record is not None:
                found.append((f"{directory}/{entry}", record))
    return found


def collect(store: Store, candidates: set[str] | None = None) -> int:
    """Delete layers and blobs that no record refers to; return how many layers.

    Args:
        candidates: chain ids to look at; None: all that there are.
    """
    root = store.root
    with store_lock(root, exclusive=True) as held:
        if not held:
            log.debug("a pull is at work: layers without an image stay until the next prune")
            return 0
        clear_leftovers(root)
        records = store.records("names") + store.records("ids")
        needed = {layer_dir("", "", chain) for record in records for chain in record["chain"]}
        looked_at = (
            None if candidates is None else {layer_dir("", "", chain) for chain in candidates}
        )
        doomed = [
            (key, name)
            for key, name in _layers_on_disk(root)
            if f"/layers//{name}" not in needed
            and (looked_at is None or f"/layers//{name}" in looked_at)
        ]
        _delete_layers(root, doomed)
        _delete_empty_keys(root)
        _delete_blobs(root, records)
        from rootless.image import tarsplit

        tarsplit.collect(root, {name.removeprefix("/layers//") for name in needed})
    return len(doomed)


def _layers_on_disk(root: str) -> list[tuple[str, str]]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for key in os.listdir(f"{root}/layers"):
            names = {name.removesuffix(".json") for name in os.listdir(f"{root}/layers/{key}")}
            found += [(key, name) for name in names]
    return found


def _delete_layers(root: str, doomed: list[tuple[str, str]]) -> None:
    """Move layers out of sight, each at once, and delete them there."""
    if not doomed:
        return
    with InFlight(root) as flight:
        moves = [
            (f"{root}/layers/{key}/{name}", f"{flight.path}/{number}")
            for number, (key, name) in enumerate(doomed)
        ]
        left = _move(moves)
        if left:
            # Directories of subordinate ids: only root of a namespace may move them.
            call_in_userns(everything(), _move, left)
        for source, _ in moves:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{source}.json")


def _delete_empty_keys(root: str) -> None:
    """Delete the directories of maps that no layer is left for."""
    with contextlib.suppress(OSError):
        for key in os.listdir(f"{root}/layers"):
            with contextlib.suppress(OSError):
                os.rmdir(f"{root}/layers/{key}")


def _move(moves: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rename what can be renamed; return the rest."""
    left = []
    for source, target in moves:
        try:
            os.rename(source, target)
        except FileNotFoundError:
            pass
        except OSError:
            left.append((source, target))
    return left


def _delete_blobs(root: str, records: list[dict[str, Any]]) -> None:
    needed = {digest for record in records for digest in (record["id"], record["digest"])}
    directory = f"{root}/blobs/sha256"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if f"sha256:{name}" not in needed:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(blob_path(root, f"sha256:{name}"))
