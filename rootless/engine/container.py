"""What a container is on disk, and the truth about it.

    <storage>/containers/<id>/       0700, the OCI bundle:
        config.json                  the OCI config
        container.json               name, image, labels, map: written once
        exit.json                    exit code and time, once it has ended
        upper/ work/ merged/         the writable layer
        hosts hostname resolv.conf   bound into the container
        log                          the output of a detached one
    <storage>/names/<name>           a link to the id: made atomically, so a name is unique
    <storage>/run/<boot>/live/<id>   JSON: the processes of a container that is being made, runs
                                     or is being cleaned up

State is never guessed from a pid alone: a process is (pid, start time), and `live` lies in a
directory that ends with the boot. What was killed leaves an entry in `live` whose processes are
dead, and `sweep` clears it. `control` has the verbs.
"""

from __future__ import annotations

import os
import time

from rootless import jsontext, paths
from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap as idmaps
from rootless.linux.idmap import IdMap
from rootless.linux.process import is_running, pidfd_open, pidfd_send_signal, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KILLED = 137


class Container:
    """One container on disk; `facts` is container.json."""

    __slots__ = ("directory", "facts", "id")

    def __init__(self, container_id: str, directory: str, facts: dict[str, Any]) -> None:
        self.id = container_id
        self.directory = directory
        self.facts = facts

    @property
    def live_path(self) -> str:
        """Return the path of the entry in `live`."""
        return f"{live_root()}/{self.id}"

    def live(self) -> dict[str, Any]:
        """Return the entry in `live`; {} for a container that has ended."""
        return read_json(self.live_path) or {}

    def record_live(self, **facts: Any) -> None:
        """Add facts to the entry in `live`: owner, monitor, init, pasta (each [pid, start])."""
        entry = self.live()
        entry.update(facts)
        write_json(self.live_path, entry)

    def idmap(self) -> IdMap:
        """Return the map that the container's files are stored under."""
        stored = self.facts["idmap"]
        return IdMap(stored["uids"], stored["gids"], stored["key"])

    def init(self) -> tuple[int, int] | None:
        """Return (pid, start time) of the container's first process, if it runs."""
        process = self.live().get("init")
        return (process[0], process[1]) if process and is_alive(process) else None

    def status(self) -> tuple[str, int | None]:
        """Return Docker's word for the state, and the exit code of one that has ended."""
        if self.init():
            return "running", None
        ended = read_json(f"{self.directory}/exit.json")
        if ended:
            return "exited", ended["code"]
        if any(is_alive(self.live().get(name)) for name in ("owner", "monitor")):
            return "created", None
        if self.facts["host"] != os.uname().nodename:
            return "unknown", None  # it may run there: only that machine can tell
        # Everything that could have noted an exit code was killed with it.
        return "exited", KILLED

    def finished(self) -> float | None:
        """Return when it ended, in seconds since the epoch; None: it has not, or nobody knows."""
        ended = read_json(f"{self.directory}/exit.json")
        return float(ended["finished"]) if ended else None

    def record_exit(self, code: int, error: str | None = None) -> None:
        """Note how it ended."""
        write_json(
            f"{self.directory}/exit.json",
            {"code": code, "finished": time.time(), "error": error},
        )

    def forget_name(self) -> None:
        """Give the name back."""
        drop_name(self.facts["name"], self.id)

    def forget_live(self) -> None:
        """Remove the entry in `live`: nothing of this container needs looking after now."""
        unlink(self.live_path)

    def send(self, number: int) -> None:
        """Signal the container's first process.

        Raises:
            RlessError: it is not running.
        """
        process = self.init()
        if process is None:
            raise RlessError(f"container {self.facts['name']} is not running", exit_code=1)
        signal_process(process, number)


def signal_process(process: tuple[int, int] | list[int], number: int) -> None:
    """Signal a process that is known by pid and start time; one that has ended is no error."""
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


def is_alive(process: list[int] | tuple[int, int] | None) -> bool:
    """Tell whether a process known by pid and start time still runs (a zombie does not)."""
    if not isinstance(process, (list, tuple)) or len(process) != 2:
        return False  # not known, or the file was damaged
    return is_running(process[0], process[1])


def this_process() -> list[int]:
    """Return [pid, start time] of the caller."""
    pid = os.getpid()
    return [pid, start_time(pid) or 0]


# -- making ------------------------------------------------------------------------------------


def new_id() -> str:
    """Return a new container id: 64 hexadecimal digits, as Docker's."""
    return os.urandom(32).hex()


def create(container_id: str, name: str | None, facts: dict[str, Any]) -> Container:
    """Make a container on disk: its directory, its name, its entry in `live`.

    Raises:
        RlessError: the name is in use, or the disk is full.
    """
    root = containers_root()
    directory = f"{root}/{container_id}"
    live = f"{live_root()}/{container_id}"
    try:
        # The entry first: whatever is made after it will be found by the next sweep.
        write_json(live, {"owner": this_process(), "rm": facts["rm"], "directory": directory})
        os.mkdir(directory, 0o700)
        facts["name"] = take_name(container_id, name)
        container = Container(container_id, directory, facts)
        write_json(f"{directory}/container.json", facts)
    except BaseException as error:
        drop_name(facts.get("name"), container_id)
        for path, remove in (
            (f"{directory}/container.json", os.unlink),
            (directory, os.rmdir),
            (live, os.unlink),
        ):
            try:
                remove(path)
            except OSError:
                pass  # it was not made
        if isinstance(error, OSError):
            raise RlessError(f"cannot make the container in {root}: {error.strerror}") from error
        raise
    return container


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
                f"{live_root()}/{owner}"
            ):
                drop_name(candidate, owner)  # left by a removal that was cut short
                continue
            if name:
                raise RlessError(
                    f"the container name {name} is already in use by {owner[:12]}",
                    f"remove that one (rless rm {name}) or choose another",
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
                f"{reference} is the beginning of {len(matches)} container ids", exit_code=1
            )
        found = load(matches[0]) if matches else None
        if found:
            return found
    raise RlessError(f"no such container: {reference}", "`rless ps -a` lists them", 1)


def load(container_id: str) -> Container | None:
    """Return the container of an id; None: there is none, or it is not yet whole."""
    directory = f"{containers_root()}/{container_id}"
    facts = read_json(f"{directory}/container.json")
    return Container(container_id, directory, facts) if facts else None


def all_ids() -> list[str]:
    return os.listdir(containers_root())


# -- ending ------------------------------------------------------------------------------------


def delete(container: Container, volumes: bool) -> None:
    """Delete what a container has on disk, whoever its files belong to.

    Killed half-way, it is finished by the next sweep.

    Args:
        volumes: its anonymous volumes, too.
    """
    container.record_live(
        owner=this_process(), rm=True, volumes=volumes, directory=container.directory
    )
    if volumes and any(mount["anonymous"] for mount in container.facts.get("mounts") or ()):
        from rootless.engine.volumes import remove_anonymous

        remove_anonymous(container)
    container.forget_name()
    idmaps.call_in_userns(container.idmap(), delete_directory, container.directory)
    container.forget_live()


def discard(container: Container) -> None:
    """Take back a container that was never started: no file of another id is there yet."""
    delete_directory(container.directory)
    container.forget_name()
    container.forget_live()


def delete_directory(directory: str) -> None:
    """Delete a container's directory; runs as root of the container's id map."""
    from rootless.rootfs import remove_workspace

    remove_workspace(directory)


# -- files ---------------------------------------------------------------------------------------


def containers_root() -> str:
    """Return the directory of the containers' directories."""
    return paths.checked(f"{paths.storage_root()}/containers")


def live_root() -> str:
    """Return the directory `live`."""
    return paths.checked(f"{paths.boot_root()}/live")


def write_json(path: str, value: Any) -> None:
    """Write a file that is, at any moment, whole or not there (rename(2))."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(jsontext.dumps(value))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path: str) -> dict[str, Any] | None:
    """Return the object in a file of `write_json`; None: no file, or a damaged one."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            value = jsontext.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # cut by a full disk or a power failure
    return value if isinstance(value, dict) else None


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
