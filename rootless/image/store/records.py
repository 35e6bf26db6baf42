"""The write side of the store: records and blobs, each complete or not there at all."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.store.names import Change, records_of
from rootless.image.store.store import (
    RECORD_VERSION,
    Store,
    blob_path,
    layer_dir,
    name_path,
    signatures_path,
)
from rootless.linux import files
from rootless.linux.filesystem import syncfs
from rootless.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Image


_FRAME = (
    "",
    "/blobs",
    "/blobs/sha256",
    "/images",
    "/images/ids",
    "/images/names",
    "/images/named",
    "/layers",
    "/splits",
)


def make_frame(root: str) -> None:
    """Make the store's directories, each closed to others."""
    for part in _FRAME:
        private_dir(root + part)


def write_file(
    path: str,
    data: bytes,
    scratch: str,
    *,
    durable: bool = True,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a file of the store (`files.write`).

    Args:
        scratch: a directory of the same file system that is cleared after a crash.
        durable: without a sync of the file system after it.
        owner: uid and gid that it gets; needed inside a user namespace.

    Raises:
        RlessError: no room, or the store is read-only.
    """
    try:
        # Root of another map may have written it: the command reads it as nobody in particular.
        # The store itself is closed to others.
        files.write(path, data, mode=0o644, durable=durable, owner=owner, scratch=scratch)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: str, error: OSError) -> RlessError:
    return RlessError(f"cannot write {path}: {error.strerror}", limits.hint(error.errno))


def write_json(path: str, value: object, scratch: str) -> None:
    """Write a JSON document as `write_file` does."""
    write_file(path, json.dumps(value, separators=(",", ":")).encode(), scratch)


def put_blob(root: str, digest: str, data: bytes, scratch: str) -> None:
    """Keep a manifest or config, verified by the caller."""
    path = blob_path(root, digest)
    if not os.path.exists(path):
        write_file(path, data, scratch, durable=False)


def get_blob(root: str, digest: str) -> bytes | None:
    """Return a manifest or config of an image of the store."""
    try:
        with open(blob_path(root, digest), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def put_signatures(root: str, digest: str, blobs: Sequence[bytes], scratch: str) -> None:
    """Keep the signatures that were seen of a manifest, beside it."""
    texts = [base64.b64encode(blob).decode() for blob in blobs]
    write_json(signatures_path(root, digest), texts, scratch)


def get_signatures(root: str, digest: str) -> list[bytes]:
    """Return the signatures that were seen of a manifest when it came."""
    if not digest:
        return []
    try:
        with open(signatures_path(root, digest), "rb") as file:
            return [base64.b64decode(text) for text in json.loads(file.read())]
    except FileNotFoundError:
        return []
    except ValueError:
        return []  # lost in a power cut: they can be asked for again


def save(
    root: str,
    record: dict[str, Any],
    reference: Reference,
    platform: str | None,
    scratch: str,
) -> None:
    """Record an image under its name and its id; an image that had the name keeps its id."""
    save_nameless(root, record, scratch)
    record = {**record, "version": RECORD_VERSION}
    write_name(root, name_path(root, reference, platform), record, scratch)


def write_name(root: str, path: str, record: dict[str, Any], scratch: str) -> None:
    """Write the record of a name to its file."""
    with Change(root) as change:
        try:
            change.add(path, record["name"], record["id"])
        except OSError as error:
            raise _cannot_write(path, error) from error
        write_json(path, record, scratch)


def save_nameless(root: str, record: dict[str, Any], scratch: str) -> None:
    """Record an image under its id alone."""
    by_id = {**record, "version": RECORD_VERSION, "name": record["id"], "source": None}
    write_json(f"{root}/images/ids/{record['id'][7:]}.json", by_id, scratch)


def add_key(image: Image, key: str, whiteouts: str, scratch: str) -> None:
    """Note in all records of an image that its layers are there for one more map."""
    image.keys[key] = whiteouts
    store = Store(image.root)
    for path, record in records_of(store, image.id):
        if key not in record["keys"]:
            record["keys"][key] = whiteouts
            write_name(image.root, path, record, scratch)
    path = f"{image.root}/images/ids/{image.id[7:]}.json"
    by_id = store.read(path)
    if by_id is not None and key not in by_id["keys"]:
        by_id["keys"][key] = whiteouts
        write_json(path, by_id, scratch)


def has_layer(root: str, key: str, chain: str) -> bool:
    """Tell whether a layer is there, and that it is this one and not its namesake.

    Raises:
        RlessError: two chain ids start alike: somebody made them so.
    """
    return find_layer(root, key, chain) is not None


def find_layer(root: str, key: str, chain: str) -> dict[str, Any] | None:
    """Return the meta record of a layer that is there; None: it is not (`has_layer`).

    Raises:
        RlessError: two chain ids start alike: somebody made them so.
    """
    if not os.path.isdir(layer_dir(root, key, chain)):
        return None
    meta = read_meta(root, key, chain)
    if meta is not None and meta["chain"] != chain:
        raise RlessError(f"layer {chain} cannot be told from {meta['chain']}: refused")
    return meta


def read_meta(root: str, key: str, chain: str) -> dict[str, Any] | None:
    """Return what was found while a layer was unpacked."""
    try:
        with open(f"{layer_dir(root, key, chain)}.json", "rb") as file:
            meta: dict[str, Any] = json.loads(file.read())
            return meta
    except (FileNotFoundError, ValueError):
        return None


def write_meta(
    root: str, key: str, meta: dict[str, Any], scratch: str, owner: tuple[int, int]
) -> None:
    """Write what was found while a layer was unpacked, before the layer itself is there.

    Args:
        owner: the caller's own ids as the namespace shows them: the caller will read it outside.
    """
    path = f"{layer_dir(root, key, meta['chain'])}.json"
    data = json.dumps(meta, separators=(",", ":")).encode()
    write_file(path, data, scratch, durable=False, owner=owner)


def sync(root: str) -> None:
    """Bring everything to disk before a record says that it is there: one call for a pull."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
