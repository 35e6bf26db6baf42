"""A container on disk, and its true state.

    <storage>/containers/<id>/       0700, the OCI bundle:
        config.json                  the OCI config of the last start
        container.json               the facts: name, image, request, map, ...; whole at any moment
        started                      empty: a container that `create` made was started once
        exit.json                    how it ended: code, times; not there while it runs
        monitor                      the socket of its monitor, while that lives
        upper/ work/ merged/         the writable layer
        hosts hostname resolv.conf   bound into the container
        log log.1 ...                what it wrote
    <storage>/names/<name>           a link to the id: made atomically, so a name is unique
    <storage>/run/<boot>/live/<id>   the run record (JSON): the processes of a container that is
                                     being made, runs or is being cleaned up. It is also the lock:
                                     a start or a removal creates this file exclusively
    <storage>/run/<boot>/live/change-<id>   JSON: who is renaming or updating it, and the names

State is never derived from a pid alone: a process is (pid, start time), and a run record belongs to
one boot. After a SIGKILL a run record remains whose processes are dead, and `reconcile` clears it.
`records` has the types of these files.
"""

from __future__ import annotations

import errno
import os
import time

from rootless import jsontext, paths
from rootless.errors import CONFLICT, NOT_FOUND, RlessError, SyscallError
from rootless.linux import files
from rootless.linux.procfs import is_running, process_state, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from typing_extensions import Unpack

    from rootless.engine.state.records import (
        ContainerChanges,
        ContainerRecord,
        ExitRecord,
        Process,
        RunRecord,
    )
    from rootless.linux.idmap import IdMap

KILLED = 137
# Beside the run records, a name that no id can have: a link whose target is this machine's name.
BOOTED = "booted"
_RESERVED = 8192  # bytes
# What is before the id beside the run records, while a container is being renamed or updated.
CHANGING = "change-"
# A file in a container's directory: the user has stopped it, so that unless-stopped does not bring
# it back after a boot. A start takes it away.
STOPPED = "stopped"


class Container:
    """One container on disk; `facts` is its container.json."""

    __slots__ = ("_own", "directory", "facts", "id")

    def __init__(self, container_id: str, directory: str, facts: ContainerRecord) -> None:
        self.id = container_id
        self.directory = directory
        self.facts = facts
        # The run record as this process wrote it; None: it is not the one that starts it.
        self._own: RunRecord | None = None

    @property
    def run_record_path(self) -> str:
        """Return the path of the run record."""
        return f"{run_records_root()}/{self.id}"

    def run_record(self) -> RunRecord:
        """Return the run record; {} for a container that has ended."""
        record: RunRecord | None = _read_if_there(self.run_record_path)
        return record or {}

    def update_run_record(self, *, now: bool = True, **changes: Unpack[RunRecord]) -> None:
        """Add to the run record.

        Args:
            now: else with the next changes: until then nobody could do more by knowing these.
        """
        record = self.run_record() if self._own is None else self._own
        record.update(changes)
        if now or self._own is None:
            write_json(self.run_record_path, record)

    def claim(self, new: bool = False, **more: Unpack[RunRecord]) -> bool:
        """Make the run record, with the caller as owner; False: there is one already.

        Args:
            new: nobody else knows the id yet.
            more: what else the record has.
        """
        record: RunRecord = {
            "owner": this_process(),
            "rm": self.facts["rm"],
            "directory": self.directory,
            "cgroup": "",
        }
        record.update(more)
        path = self.run_record_path
        if new:
            write_json(path, record)
            self._own = record
            return True
        try:
            made = write_new(path, record)
        except OSError as error:
            if error.errno != errno.ENOSPC or "removing" not in more:
                raise
            _release_reserved_space()  # a removal makes room, but begins with a note of it
            made = write_new(path, record)
        if made:
            self._own = record
        return made

    def update_facts(self, **changes: Unpack[ContainerChanges]) -> None:
        """Change container.json, which is whole at any moment."""
        current: ContainerRecord | None = read_json(f"{self.directory}/container.json")
        self.facts = {**(current or self.facts), **changes}
        write_json(f"{self.directory}/container.json", self.facts)

    def restart_policy(self) -> str:
        """Return the name of its restart policy; "no" where none was recorded."""
        policy = self.facts.get("restart")
        return policy["name"] if policy else "no"

    def idmap(self) -> IdMap:
        """Return the map that the container's files are stored under."""
        from rootless.linux.idmap import IdMap

        stored = self.facts["idmap"]
        return IdMap(stored["uids"], stored["gids"], stored["key"])

    def init(self) -> tuple[int, int] | None:
        """Return (pid, start time) of the container's first process, if it runs."""
        process = self.run_record().get("init")
        return (process[0], process[1]) if process and is_alive(process) else None

    def exit_record(self) -> ExitRecord | None:
        """Return exit.json; None: it runs, was never started, or the disk was full."""
        record: ExitRecord | None = _read_if_there(f"{self.directory}/exit.json")
        return record

    def ended(self) -> ExitRecord | None:
        """Return how it ended, if that was recorded, in exit.json or else in the run record."""
        return self.exit_record() or self.run_record().get("ended")

    def status(self, recorded: bool = True) -> tuple[str, int | None]:
        """Return Docker's word for the state, and the exit code of one that has ended.

        created, running, paused, restarting, exited; unknown: only another machine can tell.

        Args:
            recorded: else the caller has listed the run records, and there was none of it: then
                one is looked for only if it has been started since.
        """
        if not recorded:
            if ended := self.exit_record():
                return "exited", ended["code"]
            if not self.was_started():
                return "created", None
        record = self.run_record()
        if is_alive(record.get("init")):
            return "paused" if is_paused(record) else "running", None
        held = is_owned(record)
        # With a run record, its end may have been noted since in it.
        ended = self.ended() if record else self.exit_record()
        if ended:
            waits = held and ended.get("restart_at") is not None
            return "restarting" if waits else "exited", ended["code"]
        if held:
            # Its end is being noted just now; or it has no first process yet.
            return "running" if record.get("init") else "created", None
        if not self.was_started():
            return "created", None
        if self.facts["host"] != os.uname().nodename:
            return "unknown", None  # it may run there: only that machine can tell
        # Everything that could have noted an exit code was killed with it.
        return "exited", KILLED

    def was_started(self) -> bool:
        """Tell whether it was ever started; `run` does so at once."""
        return self.facts.get("run", True) or os.access(f"{self.directory}/started", os.F_OK)

    def finished(self) -> float | None:
        """Return when it ended, in seconds since the epoch; None: it has not, or nobody knows."""
        ended = self.ended()
        return float(ended["finished"]) if ended else None

    def record_exit(self, code: int, error: str | None = None) -> None:
        """Note how it ended, in place of a monitor that did not."""
        run = self.run_record()
        record: ExitRecord = {
            "code": code,
            "started": run.get("started"),
            "finished": time.time(),
            "error": error,
            "oom": False,
            "restarts": run.get("restarts", 0),
        }
        write_json(f"{self.directory}/exit.json", record)

    def forget_name(self) -> None:
        """Give the name back."""
        drop_name(self.facts["name"], self.id)

    def remove_run_record(self) -> None:
        """Remove the run record: nothing of this container needs looking after now."""
        unlink(self.run_record_path)

    def send(self, number: int) -> None:
        """Signal the container's first process.

        Raises:
            RlessError: it is not running.
        """
        process = self.init()
        if process is None:
            raise RlessError(
                f"container {self.facts['name']} is not running", exit_code=1, kind=CONFLICT
            )
        signal_process(process, number)


def is_owned(record: RunRecord) -> bool:
    """Tell whether a process that answers for a container is alive: its owner or its monitor."""
    return is_alive(record.get("owner")) or is_alive(record.get("monitor"))


def is_paused(record: RunRecord) -> bool:
    """Tell whether a container is halted, by its cgroup or SIGSTOP."""
    if cgroup := record.get("cgroup"):
        try:
            with open(f"{cgroup}/cgroup.freeze", "rb") as file:
                if file.read(1) == b"1":
                    return True
        except OSError:
            pass  # it is just going
    init = record.get("init")
    return init is not None and process_state(init[0]) == "T"


def signal_process(process: Process | tuple[int, int], number: int) -> None:
    """Signal a process that is known by pid and start time; one that has ended is no error."""
    # Its bindings take 1 ms, and lists of containers signal nobody.
    from rootless.linux.process import pidfd_open, pidfd_send_signal

    pid, started = process
    try:
        pidfd = pidfd_open(pid)
    except SyscallError:
        return
    try:
        # Checked behind the pidfd: this number cannot change hands any more.
        if start_time(pid) == started:
            pidfd_send_signal(pidfd, number)
    except SyscallError as error:
        if error.errno != 3:
            raise
    finally:
        os.close(pidfd)


def is_alive(process: Process | tuple[int, int] | None) -> bool:
    """Tell whether a process known by pid and start time still runs (a zombie does not)."""
    if not isinstance(process, (list, tuple)) or len(process) != 2:
        return False  # not known, or the file was damaged
    return is_running(process[0], process[1])


def this_process() -> Process:
    """Return [pid, start time] of the caller."""
    pid = os.getpid()
    return [pid, start_time(pid) or 0]


# -- making ------------------------------------------------------------------------------------


def new_id() -> str:
    """Return a new container id: 64 hexadecimal digits, as Docker's."""
    return os.urandom(32).hex()


def take_name(container_id: str, name: str | None) -> str:
    """Take a name, or a random one, for a container; return it.

    Raises:
        RlessError: it is another one's.
    """
    names = f"{paths.storage_root()}/names"
    while True:
        candidate = name or _random_name()
        try:
            os.symlink(container_id, f"{names}/{candidate}")
            return candidate
        except FileNotFoundError:
            paths.private_dir(names)
        except FileExistsError:
            try:
                owner = os.readlink(f"{names}/{candidate}")
            except FileNotFoundError:
                continue  # given back just now
            if not os.path.lexists(f"{containers_root()}/{owner}") and not os.path.lexists(
                f"{run_records_root()}/{owner}"
            ):
                drop_name(candidate, owner)  # left by a removal that was cut short
                continue
            if name:
                raise RlessError(
                    f"the container name {name} is already in use by {owner[:12]}",
                    f"remove that one (rless rm {name}) or choose another",
                    kind=CONFLICT,
                ) from None


def drop_name(name: str | None, container_id: str) -> None:
    """Give a name back, if it is this container's."""
    if not name:
        return
    path = f"{paths.storage_root()}/names/{name}"
    try:
        if os.readlink(path) == container_id:
            os.unlink(path)
    except OSError:
        pass  # never taken, or taken by another


def changing_path(container_id: str) -> str:
    """Return the path of the note that a container is being changed, and the lock of it."""
    return f"{run_records_root()}/{CHANGING}{container_id}"


def drop_names_of(container_id: str) -> None:
    """Give back whatever names a container has, of which nothing else is known."""
    for name, owner in all_names():
        if owner == container_id:
            drop_name(name, container_id)


def all_names() -> Iterator[tuple[str, str]]:
    """Yield each name that is taken, and the id that has it."""
    root = f"{paths.storage_root()}/names"
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    for name in names:
        try:
            yield name, os.readlink(f"{root}/{name}")
        except OSError:
            continue  # given back just now


_ADJECTIVES = "brave calm clever eager fair gentle happy keen kind lucid merry proud quiet wise"
_NOUNS = "badger crane falcon finch heron ibex lynx marten otter raven seal stork swift wren"


def _random_name() -> str:
    """Return a name as Docker makes them: adjective_noun, with digits so that it is free."""
    random = os.urandom(4)
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    number = int.from_bytes(random[2:], "little")
    return (
        f"{adjectives[random[0] % len(adjectives)]}_{nouns[random[1] % len(nouns)]}{number % 10000}"
    )


# -- finding -----------------------------------------------------------------------------------


def _is_name(text: str) -> bool:
    return text.isascii() and text[:1].isalnum() and len(text) < 256 and "/" not in text


def find(reference: str) -> Container:
    """Return a container by name, id, or unique beginning of an id.

    Raises:
        RlessError: there is none, or more than one.
    """
    # What cannot be a name or an id is never a path of ours.
    if _is_name(reference):
        try:
            found = load(os.readlink(f"{paths.storage_root()}/names/{reference}"))
        except OSError:
            found = load(reference)
        if found:
            return found
        matches = [name for name in all_ids() if name.startswith(reference)]
        if len(matches) > 1:
            raise RlessError(
                f"{reference} is the beginning of {len(matches)} container ids",
                exit_code=1,
                kind=CONFLICT,
            )
        found = load(matches[0]) if matches else None
        if found:
            return found
    raise RlessError(
        f"no such container: {reference}", "`rless ps -a` lists them", 1, kind=NOT_FOUND
    )


def load(container_id: str) -> Container | None:
    """Return the container of an id; None: there is none, or it is not yet whole."""
    directory = f"{containers_root()}/{container_id}"
    facts: ContainerRecord | None = read_json(f"{directory}/container.json")
    return Container(container_id, directory, facts) if facts else None


def await_run_record(container: Container, seconds: float = 10) -> bool:
    """Wait until another command has started the container or done with it; False: not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        record = container.run_record()
        if is_alive(record.get("init")):
            return True
        if not is_owned(record):
            return True
        time.sleep(0.01)
    return False


def all_ids() -> list[str]:
    return os.listdir(containers_root())


# -- files ---------------------------------------------------------------------------------------


def containers_root() -> str:
    """Return the directory of the containers' directories."""
    return paths.checked(f"{paths.storage_root()}/containers")


def run_records_root() -> str:
    """Return the directory of the run records."""
    return paths.checked(f"{paths.boot_root()}/live")


def reserve_space() -> None:
    """Keep a little room for a time when the disk is full."""
    try:
        fd = os.open(_reserved_space(), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(_RESERVED))
        finally:
            os.close(fd)
    except OSError:
        pass  # it is full already


def _release_reserved_space() -> None:
    unlink(_reserved_space())


def _reserved_space() -> str:
    return f"{paths.boot_root()}/reserved"


def write_json(path: str, value: Any) -> None:
    """Write a file that is, at any moment, whole or not there.

    Raises:
        OSError: as `files.write`.
    """
    files.write(path, _encode(value))


def write_new(path: str, value: Any) -> bool:
    """Write a file that is whole at once; False: there is one already, which stays.

    Raises:
        OSError: as `files.write_new`.
    """
    return files.write_new(path, _encode(value))


def _encode(value: Any) -> bytes:
    return jsontext.dumps(value).encode("utf-8", "surrogateescape")


def read_json(path: str) -> Any:
    """Return the object in a file of `write_json`; None: no file, or a damaged one.

    Its type is that of the variable that it is given to: one of `records`.
    """
    try:
        value = jsontext.loads(files.read(path).decode("utf-8", "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # cut by a full disk or a power failure
    return value if isinstance(value, dict) else None


def _read_if_there(path: str) -> Any:
    """Do as `read_json`; a file that is not there takes a quarter of the time: no exception."""
    return read_json(path) if os.access(path, os.F_OK) else None


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
