"""The entries of the build cache: which layers a step of a build has given.

    build/cache/<first two digits>/<key>   one small JSON document each, made by rename
    build/locks/<key>                      held while the step is done
    build/content/<device>-<inode>         digests of the files of a context
    build/content/url-<digest>             what the server of a URL said, for ADD
    build/content/packed-<digest>          which blob a layer became when it was pushed
    build/mounts/<name>                    a directory of `RUN --mount=type=cache`
    build/mounts/locks/<name>              held while a step has it; its time: the last use

A key is what the step depends on (`engine.build.keys`), 64 hexadecimal digits. The layers are
ordinary layers of the store, and an entry keeps them alive as an image does. The time of the last
use is the file's own. The directories are closed to others: an entry is believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import is_digest, is_hex
from rootless.image.store.ownership import delete_any
from rootless.linux import files
from rootless.linux.locks import lock, open_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_VERSION = 1


class Entry:
    """What one step has given.

    Attributes:
        chain: chain ids of all layers of the tree after the step, bottom first; never empty.
        map: key of the map that they were made for.
        diff_ids, sizes: of the topmost layers, as many as the build knows.
        created, used: seconds since 1970.
        text: the instruction, for who looks at the cache.
        keys: all keys of this result, where it has several: first the one by which later steps
            know the tree. early: one more, by which it is found before its sources are there; "":
            none.
    """

    __slots__ = ("chain", "created", "diff_ids", "early", "keys", "map", "sizes", "text", "used")

    def __init__(
        self,
        chain: Sequence[str],
        map_key: str,
        *,
        diff_ids: Sequence[str] = (),
        sizes: Sequence[int] = (),
        created: float = 0.0,
        used: float = 0.0,
        text: str = "",
        keys: Sequence[str] = (),
        early: str = "",
    ) -> None:
        self.chain = tuple(chain)
        self.map = map_key
        self.diff_ids = tuple(diff_ids)
        self.sizes = tuple(sizes)
        self.created = created
        self.used = used
        self.text = text
        self.keys = tuple(keys)
        self.early = early


def entry_path(root: str, key: str) -> str:
    """Return where the entry of a key lies."""
    if not is_hex(key, 64):
        raise RlessError("internal error: no key of the build cache")
    return f"{root}/build/cache/{key[:2]}/{key}"


def lock_path(root: str, key: str) -> str:
    """Return the file whose lock is held while the step of a key is done."""
    if not is_hex(key, 64):
        raise RlessError("internal error: no key of the build cache")
    return f"{root}/build/locks/{key}"


def make_directory(root: str, path: str) -> None:
    """Make a directory of the cache and its parents, private, for the owner of the store.

    Also root of another map may: the command outside must read what is in it.
    """
    owner = os.stat(root).st_uid
    here = root
    for name in os.path.relpath(path, root).split("/"):
        here = f"{here}/{name}"
        try:
            os.mkdir(here, 0o700)
        except FileExistsError:
            continue
        os.chown(here, owner, -1)


def has(root: str, key: str) -> bool:
    """Tell whether a key has an entry, be it one that cannot be read."""
    return os.path.exists(entry_path(root, key))


def read(root: str, key: str) -> Entry | None:
    """Return the entry of a key; None: there is none that can be read."""
    return _read(entry_path(root, key))


def _read(path: str) -> Entry | None:
    try:
        used = os.stat(path).st_mtime
        document: dict[str, Any] = json.loads(files.read(path))
        chain = [str(chain) for chain in document["chain"]]
        keys = [str(key) for key in document.get("keys", ())]
        if document["version"] != _VERSION or not chain or not all(map(is_digest, chain)):
            return None
        early = str(document.get("early", ""))
        if not all(is_hex(key, 64) for key in (*keys, *([early] if early else ()))):
            return None
        return Entry(
            chain,
            str(document["map"]),
            diff_ids=[str(diff_id) for diff_id in document["diff_ids"]],
            sizes=[int(size) for size in document["sizes"]],
            created=float(document["created"]),
            used=used,
            text=str(document["text"]),
            keys=keys,
            early=early,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # lost in a power cut, or never there: the step is done again


def write(root: str, key: str, entry: Entry) -> None:
    """Write an entry: it is there as a whole, or not at all.

    Raises:
        RlessError: no room, or the store is read-only.
    """
    path = entry_path(root, key)
    document = {
        "version": _VERSION,
        "chain": entry.chain,
        "map": entry.map,
        "diff_ids": entry.diff_ids,
        "sizes": entry.sizes,
        "created": entry.created,
        "text": entry.text,
    }
    if entry.keys:
        document["keys"] = entry.keys
    if entry.early:
        document["early"] = entry.early
    data = json.dumps(document, separators=(",", ":")).encode("ascii")
    try:
        make_directory(root, os.path.dirname(path))
        files.write(path, data, owner=(os.stat(root).st_uid, -1))
    except OSError as error:
        raise RlessError(
            f"cannot write {path}: {error.strerror}", limits.hint(error.errno)
        ) from error


def touch(root: str, key: str) -> None:
    """Note that an entry was used now."""
    with contextlib.suppress(OSError):  # a prune was faster
        os.utime(entry_path(root, key))


def every(root: str) -> dict[str, Entry]:
    """Return key -> entry of all that can be read."""
    found = {}
    for path in _files(root):
        name = os.path.basename(path)
        entry = _read(path) if is_hex(name, 64) else None
        if entry is not None:
            found[name] = entry
    return found


def forget(root: str, key: str) -> None:
    """Delete an entry; absent is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(entry_path(root, key))


def clear_leftovers(root: str) -> None:
    """Delete what is no entry: of another version, damaged, or left by a killed command."""
    for path in _files(root):
        name = os.path.basename(path)
        pid = name.removesuffix(".tmp").rpartition(".")[2]
        if name.endswith(".tmp") and pid.isdigit() and os.path.exists(f"/proc/{pid}"):
            continue  # it is being written
        if not is_hex(name, 64) or _read(path) is None:
            with contextlib.suppress(OSError):
                os.unlink(path)


def forget_content(root: str, before: float | None) -> None:
    """Forget the hints: of the files of contexts, of URLs, of layers that were compressed.

    Args:
        before: only what was written last before that moment, in seconds since 1970; None: all.
    """
    directory = f"{root}/build/content"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                if before is None or os.stat(path).st_mtime < before:
                    os.unlink(path)


def needed(root: str) -> set[str]:
    """Return the chain ids of all layers that entries name."""
    return {chain for entry in every(root).values() for chain in entry.chain}


def mounts(root: str) -> dict[str, float]:
    """Return name -> time of the last use of the directories of cache mounts."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(f"{root}/build/mounts")):
            if name != "locks":
                try:
                    found[name] = os.stat(f"{root}/build/mounts/locks/{name}").st_mtime
                except FileNotFoundError:
                    found[name] = 0.0  # half made by a build that was killed
    return found


def remove_mount(root: str, name: str) -> bool:
    """Delete the directory of a cache mount; False: a step has it.

    Raises:
        RlessError: it cannot be deleted.
    """
    directory = f"{root}/build/mounts"
    if not name.startswith("."):
        fd = open_lock(f"{directory}/locks/{name}")
        try:
            if lock(fd, wait=False) is False:
                return False
            delete_any(directory, name)
            # The lock's file stays: who opened it meanwhile waits for this very one.
            return True
        finally:
            os.close(fd)
    delete_any(directory, name)
    return True


def _files(root: str) -> list[str]:
    found = []
    top = f"{root}/build/cache"
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(top)):
            directory = f"{top}/{name}"
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.lstat(directory).st_mode):
                    found += [f"{directory}/{leaf}" for leaf in sorted(os.listdir(directory))]
    return found
