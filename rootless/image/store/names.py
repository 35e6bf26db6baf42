"""The names of each image, found without a look at those of all others.

    images/names/<hash>.json           the records, one a name: what is true
    images/named/<image id>/<hash>     a link to the name as text: which names an image has
    images/named/.complete             a lock; its mtime is that of images/names

An entry is made before its record, and only a collection removes one, which has the store for
itself. So every record has its entry, at any moment. An entry says nothing if its record is gone,
or is another image's by now.

A version of rless before this one writes records only. So the entries are believed only while
.complete has the mtime that images/names has, which every writer of both gives it. Else they are
completed from the records, by the next command that asks.
"""

from __future__ import annotations

import contextlib
import os

from rootless.linux.locks import lock, open_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rootless.image.store.store import Store

    Named = tuple[str, dict[str, Any]]
    # The file of the record, the name, the image's id.
    Entry = tuple[str, str, str]


class Change:
    """Change records of names in a `with` block: the entries stay as complete as they were."""

    __slots__ = ("_complete", "_fd", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._fd = -1
        self._complete = False

    def __enter__(self) -> Change:
        with contextlib.suppress(OSError):
            os.mkdir(_entries(self._root), 0o700)
        try:
            self._fd = open_lock(_stamp(self._root))
        except OSError:
            return self  # no store, no room, or read only: a removal can do without
        try:
            lock(self._fd)
            self._complete = is_complete(self._root)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *details: object) -> None:
        if self._fd < 0:
            return
        try:
            if self._complete:
                _mark(self._root, os.stat(_records(self._root)).st_mtime_ns)
        finally:
            os.close(self._fd)

    def add(self, path: str, name: str, image_id: str) -> None:
        """Make the entry of a record that is about to be written.

        Raises:
            OSError: no room, or the store is read-only.
        """
        directory = f"{_entries(self._root)}/{image_id[7:]}"
        entry = f"{directory}/{os.path.basename(path).removesuffix('.json')}"
        # One that is too long for a link is read from its record.
        text = name if len(os.fsencode(name)) < 4096 else "."
        try:
            os.symlink(text, entry)
        except FileExistsError:
            pass
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            with contextlib.suppress(FileExistsError):
                os.symlink(text, entry)


def is_complete(root: str) -> bool:
    """Tell whether every name of a store has its entry."""
    try:
        return os.stat(_stamp(root)).st_mtime_ns == os.stat(_records(root)).st_mtime_ns
    except OSError:
        return False


def records_of(store: Store, image_id: str) -> list[Named]:
    """Return the files and records of one image's names, in the order of the files."""
    if not is_complete(store.root):
        return [entry for entry in _complete(store) if entry[1]["id"] == image_id]
    try:
        hashes = sorted(os.listdir(f"{_entries(store.root)}/{image_id[7:]}"))
    except FileNotFoundError:
        return []
    files = [f"{_records(store.root)}/{name}.json" for name in hashes]
    found = [(path, store.read(path)) for path in files]
    return [(path, record) for path, record in found if record and record["id"] == image_id]


def every(store: Store) -> list[Entry]:
    """Return all names of a store, without a look into their records."""
    root = store.root
    if not is_complete(root):
        return [(path, record["name"], record["id"]) for path, record in _complete(store)]
    there = set(os.listdir(_records(root)))
    found: dict[str, Entry] = {}
    for directory in os.listdir(_entries(root)):
        if directory.startswith("."):
            continue
        place = f"{_entries(root)}/{directory}"
        try:
            texts = {f"{name}.json": os.readlink(f"{place}/{name}") for name in os.listdir(place)}
        except FileNotFoundError:
            continue  # a collection has just removed what says nothing
        for file in texts.keys() & there:
            path, text = f"{_records(root)}/{file}", texts[file]
            if file not in found and text != ".":
                found[file] = (path, text, f"sha256:{directory}")
            elif record := store.read(path):
                found[file] = (path, record["name"], record["id"])
    return [found[file] for file in sorted(found)]


def read_all(store: Store) -> list[Named]:
    """Return the file and the record of every name."""
    try:
        files = sorted(os.listdir(_records(store.root)))
    except FileNotFoundError:
        return []
    found = [
        (f"{_records(store.root)}/{file}", store.read(f"{_records(store.root)}/{file}"))
        for file in files
        if file.endswith(".json")
    ]
    return [(path, record) for path, record in found if record is not None]


def tidy(root: str, records: Iterable[Named]) -> None:
    """Remove entries that say nothing; for one who has the store for himself.

    Args:
        records: what `read_all` returns.
    """
    needed = {(record["id"][7:], os.path.basename(path)[:-5]) for path, record in records}
    with contextlib.suppress(OSError):
        for directory in os.listdir(_entries(root)):
            if directory.startswith("."):
                continue
            place = f"{_entries(root)}/{directory}"
            for name in os.listdir(place):
                if (directory, name) not in needed:
                    os.unlink(f"{place}/{name}")
            with contextlib.suppress(OSError):
                os.rmdir(place)


def _complete(store: Store) -> list[Named]:
    """Return what `read_all` does, and make the entries that are missing, if that can be."""
    root = store.root
    try:
        with Change(root) as change:
            made = os.stat(_records(root)).st_mtime_ns
            found = read_all(store)
            for path, record in found:
                change.add(path, record["name"], record["id"])
            # If somebody without entries has written meanwhile, it is not his mtime.
            _mark(root, made)
    except OSError:
        return read_all(store)  # no store, or one of another user: read only
    return found


def _mark(root: str, mtime: int) -> None:
    with contextlib.suppress(OSError):
        os.utime(_stamp(root), ns=(mtime, mtime))


def _records(root: str) -> str:
    return f"{root}/images/names"


def _entries(root: str) -> str:
    return f"{root}/images/named"


def _stamp(root: str) -> str:
    return f"{root}/images/named/.complete"
