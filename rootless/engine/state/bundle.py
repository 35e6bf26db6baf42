"""A container on disk, the OCI bundle: made, taken back, deleted."""

from __future__ import annotations

import os

from rootless.engine.state.container import (
    Container,
    containers_root,
    drop_names_of,
    take_name,
    this_process,
    write_json,
)
from rootless.errors import RlessError
from rootless.linux import idmap as idmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.engine.state.records import ContainerRecord


def create(
    container_id: str,
    name: str | None,
    facts: ContainerRecord,
    populate: Callable[[Container], None] | None = None,
) -> Container:
    """Make a container on disk: its directory, its name, its run record.

    Args:
        facts: container.json, with "" for the name.
        populate: completes the facts, where that needs the directory.

    Raises:
        RlessError: the name is in use, or the disk is full, or of `populate`.
    """
    root = containers_root()
    directory = f"{root}/{container_id}"
    container = Container(container_id, directory, facts)
    try:
        # The run record first: whatever is made after it will be found by the next `reconcile`.
        container.claim(new=True)
        os.mkdir(directory, 0o700)
        facts["name"] = take_name(container_id, name)
        if populate is not None:
            populate(container)
        path = f"{directory}/container.json"
        # ext4 takes care of data before a rename only where that replaces a file: else there
        # would be an empty one after a power cut (ext4(5), auto_da_alloc).
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        write_json(path, facts)
    except BaseException as error:
        try:
            if not facts["name"]:
                drop_names_of(container_id)  # a signal has come when it had just been taken
            _take_back(container)
        except (OSError, RlessError):
            pass  # the next `reconcile` does it
        if isinstance(error, OSError):
            from rootless.image.model import limits

            raise RlessError(
                f"cannot make the container in {root}: {error.strerror}", limits.hint(error.errno)
            ) from error
        raise
    return container


def delete(container: Container, volumes: bool) -> None:
    """Delete what a container has on disk, whoever its files belong to.

    Killed half-way, it is finished by the next `reconcile`.

    Args:
        volumes: its anonymous volumes, too.
    """
    container.update_run_record(
        owner=this_process(), rm=True, volumes=volumes, directory=container.directory
    )
    if volumes:
        _delete_volumes(container)
    container.forget_name()
    idmaps.call_in_userns(container.idmap(), delete_directory, container.directory)
    container.remove_run_record()
    _record_destroyed(container)


def _record_destroyed(container: Container) -> None:
    from rootless.engine.state import events

    events.of_container("destroy", container)


def _delete_volumes(container: Container) -> None:
    if any(mount["anonymous"] for mount in container.facts.get("mounts") or ()):
        from rootless.engine.state import volumes

        volumes.remove_anonymous(container)
        volumes.clear_leftovers()  # of one that was killed after its name had gone


def discard(container: Container, keep_record: bool = False) -> None:
    """Delete a container whose start was refused.

    All of its files can be reached from here: either none of another id is there yet, or we are
    in its user namespace.

    Args:
        keep_record: leave the run record, for the next `reconcile`.
    """
    _take_back(container, keep_record)
    _record_destroyed(container)


def _take_back(container: Container, keep_record: bool = False) -> None:
    _delete_volumes(container)
    if os.path.lexists(container.directory):
        delete_directory(container.directory)
    container.forget_name()
    if not keep_record:
        container.remove_run_record()


def delete_directory(directory: str) -> None:
    """Delete a container's directory; runs as root of the container's id map."""
    from rootless.rootfs import remove_workspace

    remove_workspace(directory)
