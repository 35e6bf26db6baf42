"""`system reset`: remove all containers, images, networks and volumes, and the storage itself.

Only what rless has made is removed, by name: the storage may be a directory that has other files.
Each part is out of sight at once, in `tmp`, and deleted there. So a reset that is killed leaves
either all of a part or nothing, and the next `prune` or `reset` deletes the rest.
"""

from __future__ import annotations

import os

from rootless import paths
from rootless.engine.manage.remove import remove
from rootless.engine.query.ps import list_containers
from rootless.engine.state.container import all_ids, is_owned, load
from rootless.engine.state.reconcile import reconcile
from rootless.errors import RlessError, escape
from rootless.image.store.ownership import delete_any
from rootless.image.store.staging import store_lock

# docs/architecture.md says what each is. What builds have kept and names go before the layers.
_PARTS = (
    *("containers", "names", "networks", "volumes", "build"),
    *("images", "blobs", "layers", "splits", "partial", "files"),
    *("host", "seccomp", "flat", "locks", "events.1", "events"),
)
_LAST = ("run", "tmp", "lock")


def reset() -> list[str]:
    """Remove everything; running containers are killed.

    Returns:
        What else is in the directory of the storage, which then stays.

    Raises:
        RlessError: a container may run on another machine, an image is being fetched, or
            something cannot be deleted.
    """
    storage = paths.storage_root()
    with store_lock(storage, exclusive=True) as held:
        if not held:
            raise RlessError("an image is being fetched", "reset when that has ended")
        reconcile()
        _remove_containers()
        _hide_and_delete(storage)
        for name in _LAST:
            delete_any(storage, name)
    others = sorted(os.listdir(storage))
    if not others:
        try:
            os.rmdir(storage)
        except OSError:
            pass  # a mount point, or the directory above it is not ours
    return others


def _remove_containers() -> None:
    for row in list_containers(ended_too=True):
        if row["status"] == "unknown":
            container = load(row["id"])
            host = container.facts["host"] if container else "another machine"
            name = row["name"]
            raise RlessError(
                f"container {name} may run on {escape(host)}",
                f"reset there, or remove it if that machine is gone (rless rm {name})",
            )
    for _, error in remove(all_ids(), force=True, volumes=True):
        if error is not None and not error.message.startswith("no such container"):
            raise error
    for identifier in all_ids():
        container = load(identifier)
        if container is not None and is_owned(container.run_record()):
            raise RlessError(
                f"container {container.facts['name']} was started just now", "reset again"
            )


def _hide_and_delete(storage: str) -> None:
    tmp = paths.checked(os.path.join(storage, "tmp"))
    hidden = []
    for part in _PARTS:
        name = f"reset-{os.urandom(6).hex()}"
        try:
            os.rename(f"{storage}/{part}", f"{tmp}/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RlessError(f"cannot remove {storage}/{part}: {error.strerror}") from error
        hidden.append(name)
    for name in hidden:
        delete_any(tmp, name)
