"""Clean up after a SIGKILL, a power cut or a reboot, at the start of each command that looks.

The run record (see `container`) tells two cases apart:

- A run record whose owner and monitor are dead: a SIGKILL in this boot. What it names is removed:
  processes, cgroup, directory. One listdir finds it.
- No run record for a container without an exit code, or for one that was to be removed: it ran when
  the machine went down. This is looked for once a boot, when the directory of run records is new.

Several machines may use a storage on a shared file system: each clears only its own run records.
"""

from __future__ import annotations

import os
import time

from rootless import paths
from rootless.engine.state.container import (
    BOOTED,
    CHANGING,
    KILLED,
    Container,
    all_ids,
    all_names,
    changing_path,
    containers_root,
    drop_name,
    drop_names_of,
    is_alive,
    is_owned,
    load,
    read_json,
    reserve_space,
    run_records_root,
    signal_process,
    unlink,
)
from rootless.linux.procfs import process_state
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.state.records import ChangeRecord, Process, RunRecord


def reconcile() -> None:
    """Clean up after killed commands; if there is nothing to do, this costs two listdirs.

    A run record is looked into only if the process that owns it is dead.
    """
    root = run_records_root()
    names = os.listdir(root)
    if BOOTED not in names:
        _clear_last_boot()
        try:
            os.symlink(os.uname().nodename, f"{root}/{BOOTED}")
        except FileExistsError:
            pass  # another command is as far
        reserve_space()
    for name in names:
        if name == BOOTED:
            continue
        if name.endswith(".tmp"):
            _drop_temporary(f"{root}/{name}")
            continue
        if name.startswith("join-"):
            from rootless.engine.state.ranks import drop_lock

            drop_lock(f"{root}/{name}")
            continue
        record: RunRecord | None = read_json(f"{root}/{name}")
        if record is not None and not is_owned(record):  # else it ended just now
            _clear_once(name)
    _clear_images()


_END = 2.0  # seconds
# Below the storage: images that are being fetched (image.store.staging).
_IN_FLIGHT = "/tmp"  # noqa: S108


def clear(container: Container) -> None:
    """Clean up after a killed monitor, for the command that owns the run record."""
    if container.run_record():
        _clear_once(container.id, ours=True)


def _drop_temporary(path: str) -> None:
    """Remove the temporary file of a writer that was killed between its write and its rename."""
    pid = path.split(".")[-2]
    if not pid.isdigit() or process_state(int(pid)) in ("", "Z", "X"):
        unlink(path)


def _clear_once(container_id: str, ours: bool = False) -> None:
    """Clear one run record, unless another command is clearing it or its container is alive.

    An owner records the monitor, and may end then. If that happened after the record was read and
    before the owner was checked, the record has changed since.

    Args:
        ours: the caller owns it.
    """
    from rootless.linux import locks

    path = f"{run_records_root()}/{container_id}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if locks.lock(fd, wait=False) is False:
            return
        # On a file system without locks, two at once meet at files that are gone already.
        record: RunRecord | None = read_json(path)
        while record is not None and not ours:
            if is_owned(record):
                return
            before, record = record, read_json(path)
            if record == before:
                break
        if record is not None:
            _clear(container_id, record)
    finally:
        os.close(fd)


def _clear(container_id: str, record: RunRecord) -> None:
    if container_id.startswith(CHANGING):
        _end_change(container_id.removeprefix(CHANGING))
        return
    for process in (record.get("init"), record.get("pasta")):
        if process and is_alive(process):
            signal_process(process, signal.SIGKILL)
            _await_end(process)  # nothing is told as ended that still is at it
    if group := record.get("cgroup"):
        from rootless.runtime.cgroup import cgroupfs

        try:
            cgroupfs.remove(group)
        except OSError:
            pass  # its parent was taken from us: the administrator's systemd removes it
    container = load(container_id)
    directory = f"{containers_root()}/{container_id}"
    if container is not None and container.facts.get("request", {}).get("holds"):
        from rootless.engine.state.ranks import end_inside

        end_inside(container_id)
    if container is None:
        _clear_unknown(container_id)
    elif record.get("rm"):
        from rootless.engine.state.bundle import delete

        delete(container, volumes=record.get("volumes", container.facts["rm"]))
    else:
        try:
            if ended := record.get("ended"):
                container.record_exit(ended["code"])  # noted by the monitor, on a full disk
            elif container.was_started() and not os.path.exists(f"{directory}/exit.json"):
                container.record_exit(KILLED, "rless was killed")
        except OSError:
            return  # still full: the run record stays the witness
    unlink(f"{run_records_root()}/{container_id}")


def _await_end(process: Process) -> None:
    """Wait until a process that was killed is gone, for as long as the kernel may need."""
    deadline = time.monotonic() + _END
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.002)


def _end_change(container_id: str, path: str | None = None) -> None:
    """Release the name that a container was to get, or had, when its rename was interrupted.

    Args:
        path: of the record of the change; None: of this boot.
    """
    change: ChangeRecord | None = read_json(path or changing_path(container_id))
    container = load(container_id)
    for name in change["names"] if change else ():
        if container is None or container.facts["name"] != name:
            drop_name(name, container_id)
    unlink(changing_path(container_id))


def _clear_unknown(container_id: str) -> None:
    """Clear a container that has no facts.

    Either it was killed while it was made, before a map was known, so there are no files of foreign
    owners yet. Or it was killed while it was deleted, after its facts.
    """
    drop_names_of(container_id)
    directory = f"{containers_root()}/{container_id}"
    if os.path.lexists(directory):
        from rootless.engine.idmap_policy import Subordinate, build
        from rootless.engine.state.bundle import delete_directory
        from rootless.linux import idmap as idmaps

        idmaps.call_in_userns(build(0, 0, Subordinate()), delete_directory, directory)


def _clear_last_boot() -> None:
    """Clear the containers of this machine that a reboot or a power cut ended."""
    here, boot = os.uname().nodename, paths.boot_id()
    for container_id in all_ids():
        container = load(container_id)
        if container is None or container.run_record():
            continue
        if container.facts["host"] != here or container.facts["boot"] == boot:
            continue
        if container.facts["rm"]:
            from rootless.engine.state.bundle import delete

            delete(container, volumes=True)
        elif container.finished() is None and container.was_started():
            container.record_exit(KILLED, "the machine went down")
    for name, container_id in all_names():
        container = load(container_id)
        if container is None or container.facts["host"] != here:
            continue
        if container.facts["name"] != name and not os.path.exists(changing_path(container_id)):
            drop_name(name, container_id)  # the machine went down in the middle of a renaming
    boots, boot = os.path.split(paths.boot_root())
    for name in os.listdir(boots):
        if name != boot:
            _forget_boot(f"{boots}/{name}", here)


def _forget_boot(root: str, here: str) -> None:
    """Remove this machine's run records of an earlier boot, and clear what only they know of."""
    try:
        if os.readlink(f"{root}/live/{BOOTED}") != here:
            return
        names = os.listdir(f"{root}/live")
    except OSError:
        return  # of another machine that is just coming up, or of an older version
    for name in names:
        if name.startswith(CHANGING):
            _end_change(name.removeprefix(CHANGING), f"{root}/live/{name}")
        elif name != BOOTED and not name.endswith(".tmp") and load(name) is None:
            _clear_unknown(name)
    import shutil

    shutil.rmtree(root, ignore_errors=True)  # two commands may be at it


def _clear_images() -> None:
    storage = paths.storage_root()
    try:
        in_flight = os.listdir(storage + _IN_FLIGHT)
    except FileNotFoundError:
        return
    if in_flight:
        from rootless.image.store.staging import clear_leftovers

        clear_leftovers(storage)
