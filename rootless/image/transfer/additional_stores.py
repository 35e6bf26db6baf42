"""Use the layers of additional stores: link to them, or copy those of other owners.

An additional store is never written to and never locked: its records and layers appear by rename,
as in any store. Its layers are used in two ways:

- A layer of a store of ours that was unpacked under the same map is used as it is. An image of such
  a store runs from there; an image of the own store that has the layer too gets a link to it.
- A layer under another map, or in a store of root's, is copied once into our store, with the owners
  translated. Root of our namespace may only read there what everybody may read.

If the layer has been removed there, the link dangles, and the layer counts as missing.
"""

from __future__ import annotations

import contextlib
import os

from rootless import log, paths
from rootless.errors import RlessError
from rootless.image.layer import remap_owners
from rootless.image.layer.tarsplit import has_split
from rootless.image.model.reference import parse
from rootless.image.store import records
from rootless.image.store.staging import LayerLocks
from rootless.image.store.store import RECORD_VERSION, Store, layer_dir, split_path
from rootless.paths import private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.store.store import Image
    from rootless.linux.idmap import IdMap

_said: set[str] = set()  # stores that were warned of


def provide(root: str, idmap: IdMap | None, chains: Sequence[str], scratch: str) -> None:
    """Bring those layers into the store that it lacks and an additional one has.

    Args:
        idmap: None: it is not known yet; then links only, for every map.
        chains: chain ids, bottom first.
        scratch: a directory of the store's file system.

    Raises:
        RlessError: no room.

    Where it runs: on the host, with the store's lock held shared.
    """
    stores = paths.additional_stores()
    forget_dangling(root, idmap, chains)
    for other, mine in stores:
        if mine:
            for key in remap_owners.keys(other) if idmap is None else (idmap.key,):
                _link(root, other, key, chains, scratch)
    if idmap is None or not stores:
        return
    missing = [chain for chain in chains if not records.has_layer(root, idmap.key, chain)]
    for other, mine in stores:
        if not missing:
            return
        _copy(root, other, mine, idmap, missing, scratch)
        missing = [chain for chain in missing if not records.has_layer(root, idmap.key, chain)]


def forget_dangling(root: str, idmap: IdMap | None, chains: Sequence[str]) -> None:
    """Remove links to layers that are gone, so that the layers can be made in their place."""
    for key in remap_owners.keys(root) if idmap is None else (idmap.key,):
        for chain in chains:
            path = layer_dir(root, key, chain)
            if os.path.islink(path) and not os.path.isdir(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def _link(root: str, other: str, key: str, chains: Sequence[str], scratch: str) -> None:
    for chain in chains:
        meta = records.read_meta(other, key, chain)
        if meta is None or not records.has_layer(other, key, chain):
            continue
        path = layer_dir(root, key, chain)
        if os.path.lexists(path):
            continue
        private_dir(os.path.dirname(path))
        records.write_meta(root, key, meta, scratch, (os.getuid(), os.getgid()))
        _copy_split(root, other, chain, scratch)
        with contextlib.suppress(FileExistsError):
            os.symlink(layer_dir(other, key, chain), path)


def _copy_split(root: str, other: str, chain: str, scratch: str) -> None:
    """Copy the record of a layer's tar, if there is one that may be read."""
    private_dir(f"{root}/splits")
    if has_split(root, chain):
        return
    with contextlib.suppress(FileNotFoundError, PermissionError):
        with open(split_path(other, chain), "rb") as file:
            data = file.read()
        records.write_file(split_path(root, chain), data, scratch, durable=False)


def _copy(
    root: str, other: str, mine: bool, idmap: IdMap, missing: Sequence[str], scratch: str
) -> None:
    """Copy layers of another map or owner; what cannot be read there is left to the registry."""
    for key in remap_owners.keys(other):
        if key == "single" and not idmap.single:
            continue  # its owners are lost
        there = [chain for chain in missing if records.has_layer(other, key, chain)]
        if not there or (mine and remap_owners.find_source(other, there, idmap) != key):
            continue
        locks = LayerLocks(root)
        try:
            for chain in there:
                locks.take(chain)
            there = [chain for chain in there if not records.has_layer(root, idmap.key, chain)]
            try:
                hosts = {} if mine else {c: _host_ids(layer_dir(other, key, c)) for c in there}
                remap_owners.convert(root, idmap, key, there, scratch, other, hosts)
                for chain in there:
                    _copy_split(root, other, chain, scratch)
            except (RlessError, OSError) as error:
                if "Permission denied" not in str(error):
                    raise
                if other in _said:
                    return
                _said.add(other)
                log.warn(
                    f"the additional store {other} has layers that you may not read; they are "
                    "fetched instead (its owner: rless unshare chmod -R a+rX,ug-s DIR)"
                )
                return
        finally:
            locks.release()
        return


def _host_ids(layer: str) -> dict[int, tuple[int, int]]:
    """Return the owners of all files of a layer by inode: only outside are they to be seen."""
    status = os.stat(layer)
    found = {status.st_ino: (status.st_uid, status.st_gid)}
    todo = [layer]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found[status.st_ino] = (status.st_uid, status.st_gid)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
    return found


def adopt(image: Image, root: str, scratch: str, *, named: bool = True) -> None:
    """Record an image of an additional store in our own; its layers are still to be provided.

    The record says that it is a copy, so it never hides what the name means there later on.

    Args:
        named: under its name too, not only by its id.
    """
    records.make_frame(root)
    source = image.root
    for digest in dict.fromkeys((image.digest, image.id)):
        data = records.get_blob(source, digest) if digest else None
        if data is not None:
            records.put_blob(root, digest, data, scratch)
    same = Store(root).own(image.id)
    keys = same.keys if same is not None else {}
    record = record_of(image) | {"copy_of": source, "keys": keys}
    reference = parse(image.name) if named and image.name != image.id else None
    if reference is not None and reference.transport == "docker":
        platform = "/".join(part for part in image.platform.values() if part)
        records.save(root, record, reference, platform, scratch)
    else:
        path = f"{root}/images/ids/{image.id[7:]}.json"
        records.write_json(path, record | {"name": image.id}, scratch)
    image.root = root
    image.copy_of = source
    image.keys = keys


def record_of(image: Image) -> dict[str, object]:
    """Return an image's record, as `records.save` takes it."""
    return {
        "version": RECORD_VERSION,
        "name": image.name,
        "id": image.id,
        "digest": image.digest,
        "digests": image.digests,
        "config": image.config,
        "platform": image.platform,
        "chain": image.chain,
        "users": image.users,
        "keys": dict(image.keys),
        "size": image.size,
        "created": image.created,
        "source": None,
    }
