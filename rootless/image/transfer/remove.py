"""Remove images: names first, then the image, then what nothing refers to any more.

An image needs its layers, and so does an entry of the build cache. References are counted by
reading the records, not by a counter that could be wrong. A pull holds the store's lock shared,
because it relies on layers that no record names yet. Deletion of layers needs the lock exclusively;
if it cannot have it, it leaves them to a later `prune`.
"""

from __future__ import annotations

import contextlib
import json
import os

from rootless import log
from rootless.errors import CONFLICT, NOT_FOUND, RlessError, escape
from rootless.image.model.digest import is_hex
from rootless.image.model.reference import familiar_repository, parse
from rootless.image.store import build_cache, downloads, names
from rootless.image.store.ownership import delete_any, everything
from rootless.image.store.staging import Staging, clear_leftovers, store_lock
from rootless.image.store.store import Image, Store, layer_dir, record_name
from rootless.linux.idmap import call_in_userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    Named = tuple[str, dict[str, Any]]

_GONE = ".gone"  # the end of the name of a layer that is being deleted where it was


class Freed:
    """What a collection has deleted.

    Attributes:
        layers: (map key, name) of each.
        bytes: of the files in layers, as counted when those were unpacked, and of blobs.
        is_left: a pull was at work, so everything stays until the next collection.
    """

    __slots__ = ("bytes", "is_left", "layers")

    def __init__(self) -> None:
        self.layers: list[tuple[str, str]] = []
        self.bytes = 0
        self.is_left = False


class NotFoundError(RlessError):
    """There is no image of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such image: {escape(name)[:300]}", exit_code=1, kind=NOT_FOUND)


def remove(
    store: Store,
    name: str,
    *,
    force: bool,
    used: Collection[str],
    running: Collection[str] = (),
) -> list[str]:
    """Remove a name, and the image with its last name; return lines as Docker prints them.

    Args:
        name: a name takes that name away, from the images of all platforms that have it; an id, or
            the start of one, the image itself.
        used: ids of images that containers are made of; these keep their layers. If it is a
            mapping, to the name of such a container.
        running: those of them whose containers run.

    Raises:
        RlessError: no such image; in use, or several names for an id, and not `force`.
    """
    image = store.own(name, stale=True)
    found = [image] if image is not None else []
    if image is None or (image.name != image.id and "@" not in name):
        found += _others(store, name, image)
    if not found:
        other = store.lookup(name, stale=True)
        if other is None:
            raise NotFoundError(name)
        raise RlessError(
            f"image {escape(name)} is in the additional store {other.root}, which is read-only",
            "only its owner can remove it there",
            exit_code=1,
        )
    checked = [(one, *_checked(store, one, name, force, used, running)) for one in found]
    lines: list[str] = []
    for one, chosen, named in checked:
        lines += [line for line in forget(store.root, chosen, named) if line not in lines]
        if len(chosen) == len(named) and one.id not in used:
            lines.append(f"Deleted: {one.id}")
            forget_id(store, one.id)
            freed = Freed()
            collect_into(freed, store, set(one.chain))
            lines += deleted(one.chain, freed)
    return lines


def _others(store: Store, name: str, image: Image | None) -> list[Image]:
    """Return the images for other platforms that have a name, each once."""
    if image is None and is_hex(name.removeprefix("sha256:"), 64):
        return []
    wanted = image.name if image is not None else record_name(parse(name))
    known = {image.id} if image is not None else set()
    found = []
    for path, text, image_id in names.every(store):
        if text == wanted and image_id not in known and (record := store.read(path)):
            known.add(image_id)
            found.append(Image(store.root, record))
    return found


def _checked(
    store: Store,
    image: Image,
    name: str,
    force: bool,
    used: Collection[str],
    running: Collection[str],
) -> tuple[list[Named], list[Named]]:
    """Return the names of an image that go, and all of them.

    Raises:
        RlessError: it cannot go.
    """
    named = names.records_of(store, image.id)
    chosen = _chosen(image, name, named)
    shown = escape(name)[:300]
    if image.name == image.id and len(named) > 1 and not force:
        raise RlessError(
            f"image {image.id[7:19]} has {len(named)} names",
            "remove them by name, or all with --force",
            exit_code=1,
            kind=CONFLICT,
        )
    is_last = len(chosen) == len(named)
    if is_last and image.id in running:
        raise RlessError(
            f"image {shown} is used by a running container{_who(running, image.id)}",
            "stop and remove the container first: not even --force removes its image",
            exit_code=1,
            kind=CONFLICT,
        )
    if is_last and image.id in used and (not force or not chosen):
        hint = "" if not chosen else ", or use --force to take the name away only"
        raise RlessError(
            f"image {shown} is used by a container{_who(used, image.id)}",
            f"remove the container first{hint}",
            exit_code=1,
            kind=CONFLICT,
        )
    return chosen, named


def _who(used: Collection[str], image_id: str) -> str:
    return f" ({escape(used[image_id])})" if isinstance(used, dict) else ""


def _chosen(image: Image, name: str, named: Sequence[Named]) -> list[Named]:
    """Return the records of names that go: all for an id, those of the repository for a digest."""
    if image.name == image.id:
        return list(named)
    if "@" in name and "@" not in image.name:
        repository = image.name.rpartition(":")[0]
        return [entry for entry in named if entry[1]["name"].rpartition(":")[0] == repository]
    return [entry for entry in named if entry[1]["name"] == image.name]


def forget(root: str, chosen: Sequence[Named], named: Sequence[Named]) -> list[str]:
    """Delete records of names; return a line for each, and for each digest that goes with it.

    Args:
        root: of the store.
        chosen: of `named`, all names of one image, those to delete.

    Raises:
        RlessError: the store is read-only.
    """
    lines = []
    gone = {path for path, _ in chosen}
    left = {_repository(record["name"]) for path, record in named if path not in gone}
    said: set[str] = set()
    with names.Change(root):
        for path, _ in chosen:
            _unlink(path)
    for _, record in chosen:
        name = record["name"]
        lines.append(f"Untagged: {escape(familiar_repository(name))}")
        repository = _repository(name)
        is_registry = "@" not in name and parse(name).transport == "docker"
        if is_registry and record["digests"] and repository not in left | said:
            said.add(repository)
            lines.append(f"Untagged: {familiar_repository(repository)}@{record['digests'][0]}")
    return lines


def forget_id(store: Store, image_id: str) -> None:
    """Delete the record of an image by id: what only it needs is left for `collect`."""
    _unlink(f"{store.root}/images/ids/{image_id[7:]}.json")


def _repository(name: str) -> str:
    """Return registry and repository of a recorded name; that of an archive itself."""
    if "@" in name:
        return name.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # another command was faster
    except OSError as error:
        raise RlessError(f"cannot delete {path}: {error.strerror}", exit_code=1) from error


def deleted(chain: Sequence[str], freed: Freed) -> list[str]:
    """Return Docker's line for each layer of an image that went with it, from the top."""
    gone = {name for _, name in freed.layers}
    return [f"Deleted: {chain_id}" for chain_id in reversed(chain) if _name(chain_id) in gone]


# -- what no record needs ------------------------------------------------------------------------


def collect(store: Store, candidates: set[str] | None = None) -> int:
    """Delete layers and blobs that no record refers to; return how many layers.

    Args:
        candidates: chain ids to look at; None: all that there are.
    """
    freed = Freed()
    collect_into(freed, store, candidates)
    return len(freed.layers)


def collect_into(freed: Freed, store: Store, candidates: set[str] | None = None) -> None:
    """Do what `collect` does, and note in `freed` what it was."""
    root = store.root
    with store_lock(root, exclusive=True) as held:
        if not held:
            log.debug("a pull is at work: layers without an image stay until the next prune")
            freed.is_left = True
            return
        clear_leftovers(root)
        freed.bytes += downloads.clear(root, every=candidates is None)
        named = names.read_all(store)
        names.tidy(root, named)
        records = [record for _, record in named] + store.records("ids")
        needed = {_name(chain) for record in records for chain in record["chain"]}
        needed |= {_name(chain) for chain in build_cache.needed(root)}
        looked_at = None if candidates is None else {_name(chain) for chain in candidates}
        doomed = [
            (key, name)
            for key, name in layers_on_disk(root)
            if name not in needed
            and (looked_at is None or name in looked_at or name.endswith(_GONE))
        ]
        _delete_layers(root, doomed, freed)
        _delete_dangling(root)
        _delete_empty_keys(root)
        _delete_blobs(root, records, freed)
        from rootless.image.layer import tarsplit

        tarsplit.collect(root, needed)


def _name(chain: str) -> str:
    return os.path.basename(layer_dir("", "", chain))


def layers_on_disk(root: str) -> list[tuple[str, str]]:
    """Return (map key, name) of every layer, also of one of which only half is there."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for key in os.listdir(f"{root}/layers"):
            layers = {name.removesuffix(".json") for name in os.listdir(f"{root}/layers/{key}")}
            found += [(key, name) for name in sorted(layers)]
    return found


def layer_sizes(root: str, chains: Collection[str]) -> dict[str, int]:
    """Return chain id -> bytes of the files of that layer, for all maps that it is there for."""
    of_names: dict[str, int] = {}
    for key, name in layers_on_disk(root):
        of_names[name] = of_names.get(name, 0) + _size(f"{root}/layers/{key}/{name}")
    return {chain: of_names.get(_name(chain), 0) for chain in chains}


def _size(path: str) -> int:
    """Return the bytes of a layer's files; a link into another store has none here."""
    if not os.path.islink(path):
        try:
            with open(f"{path}.json", "rb") as file:
                return int(json.loads(file.read())["size"])
        except (OSError, ValueError, KeyError):
            pass  # half a layer
    return 0


def _delete_layers(root: str, doomed: list[tuple[str, str]], freed: Freed) -> None:
    """Move layers out of sight, each at once, and delete them there."""
    if not doomed:
        return
    freed.layers += doomed
    places = [f"{root}/layers/{key}/{name}" for key, name in doomed]
    freed.bytes += sum(_size(path) for path in places)
    try:
        with Staging(root) as staging:
            _move_all([(path, f"{staging.path}/{n}") for n, path in enumerate(places)])
            _delete_metas(places)
    except RlessError as error:
        # No room for a directory in tmp/: then beside where they were. Room is what is wanted.
        log.debug(f"layers are deleted in their places: {error}")
        moves = [(path, path.removesuffix(_GONE) + _GONE) for path in places]
        _move_all([(source, target) for source, target in moves if source != target])
        _delete_metas(places)
        for _, target in moves:
            delete_any(*os.path.split(target))


def _delete_metas(places: Sequence[str]) -> None:
    for path in places:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.json")


def _delete_dangling(root: str) -> None:
    """Delete links to layers that have gone from their additional store."""
    for key, name in layers_on_disk(root):
        path = f"{root}/layers/{key}/{name}"
        if os.path.islink(path) and not os.path.exists(path):
            for victim in (path, f"{path}.json"):
                with contextlib.suppress(OSError):
                    os.unlink(victim)


def _delete_empty_keys(root: str) -> None:
    """Delete the directories of maps that no layer is left for."""
    with contextlib.suppress(OSError):
        for key in os.listdir(f"{root}/layers"):
            with contextlib.suppress(OSError):
                os.rmdir(f"{root}/layers/{key}")


def _move_all(moves: list[tuple[str, str]]) -> None:
    left = _move(moves)
    if left:
        # Directories of subordinate ids: only root of a namespace may move them.
        call_in_userns(everything(), _move, left)


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


def _delete_blobs(root: str, records: list[dict[str, Any]], freed: Freed) -> None:
    needed = {digest for record in records for digest in (record["id"], record["digest"])}
    directory = f"{root}/blobs/sha256"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if f"sha256:{name.partition('.')[0]}" not in needed:
                with contextlib.suppress(FileNotFoundError):
                    path = f"{directory}/{name}"
                    size = os.lstat(path).st_size
                    os.unlink(path)
                    freed.bytes += size
