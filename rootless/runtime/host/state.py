"""Containers of the runtime's command line, on disk: one directory each below `--root`.

    <root>/<id>/                0700, made with mkdir: two `create`s of one id cannot both win
        config.json             the checked config: later changes of the bundle's do not count
        state.json              pid, start time, boot id, bundle: written by rename
        exec.fifo               a FIFO that init reads; `start` writes one byte into it
        created                 its name from the end of `create` to `start`
        failure                 what went wrong after `create` had ended, in the format of `sync`
        notify/                 bound into the container, with a socket for its sd_notify

So a file's name is the status, and init is recorded before it does anything: whenever a `create` is
killed, `delete --force` finds what is left. A pid is believed only with its start time and boot id
(security class 39).
"""

from __future__ import annotations

import os
import select
import stat
import time

from rootless import jsontext, paths
from rootless.errors import RlessError, SyscallError
from rootless.linux import files
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.procfs import is_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Spec, State

_CREATION = 0.5  # seconds
_OCI_VERSION = "1.2.0"
_FACTS = frozenset({"pid", "start", "boot", "bundle", "annotations"})
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def check_id(container_id: str) -> str:
    """Return the id if it can be a file name: runc's alphabet, no leading dot.

    Raises:
        RlessError: it cannot.
    """
    if (
        not container_id
        or len(container_id) > 1024
        or not _ALLOWED.issuperset(container_id)
        or container_id.startswith(".")
    ):
        raise RlessError(
            f"invalid container ID {container_id!r}: empty, too long, or with an invalid character",
            exit_code=1,
        )
    return container_id


class Record:
    """One container's directory below the root."""

    __slots__ = ("directory", "id", "root")

    def __init__(self, root: str, container_id: str) -> None:
        self.id = check_id(container_id)
        self.root = root
        self.directory = f"{root}/{self.id}"

    @property
    def fifo(self) -> str:
        """Return the path of the start FIFO, before the container is created."""
        return f"{self.directory}/exec.fifo"

    @property
    def created(self) -> str:
        """Return the path of the start FIFO of a created container."""
        return f"{self.directory}/created"

    def make(self) -> None:
        """Make the directory and the FIFO.

        Raises:
            RlessError: the id is in use.
        """
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            raise RlessError(f"container {self.id} already exists", exit_code=1) from None
        except OSError as error:
            raise RlessError(f"cannot make {self.directory}: {error.strerror}") from error
        try:
            os.mkfifo(self.fifo, 0o600)
        except OSError as error:
            os.rmdir(self.directory)
            raise RlessError(f"cannot make {self.fifo}: {error.strerror}") from error

    @property
    def failure(self) -> str:
        """Return the path of the file in which init tells a failure that nobody waits for."""
        return f"{self.directory}/failure"

    @property
    def notify(self) -> str:
        """Return the path of the directory with the socket for sd_notify."""
        return f"{self.directory}/notify"

    def write_spec(self, spec: Spec) -> None:
        """Keep the checked config."""
        self._replace("config.json", jsontext.dumps(spec))

    def read_spec(self) -> Spec:
        """Return what `write_spec` kept.

        Raises:
            RlessError: it is not there, or damaged.
        """
        try:
            with open(f"{self.directory}/config.json", encoding="utf-8") as file:
                spec: Spec = jsontext.loads(file.read())
                return spec
        except (OSError, ValueError, RecursionError) as error:
            raise RlessError(f"container {self.id}: its config is damaged: {error}") from error

    def write(self, facts: dict[str, Any]) -> None:
        """Write state.json."""
        self._replace("state.json", jsontext.dumps(facts))

    def _replace(self, name: str, text: str) -> None:
        files.write(f"{self.directory}/{name}", text.encode())

    def mark_created(self) -> None:
        """Turn `creating` into `created`: `start` is possible now."""
        os.rename(self.fifo, self.created)

    def read(self) -> dict[str, Any]:
        """Return what `write` wrote.

        Raises:
            RlessError: there is no such container.
        """
        try:
            with open(f"{self.directory}/state.json", encoding="utf-8") as file:
                facts: dict[str, Any] = jsontext.loads(file.read())
                if not _FACTS.issubset(facts):
                    raise ValueError("facts are missing")
                return facts
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (ValueError, RecursionError) as error:
            raise RlessError(f"container {self.id}: its state file is damaged: {error}") from error
        if os.path.isdir(self.directory):
            return {"pid": 0, "start": 0, "boot": "", "bundle": "", "annotations": {}}
        raise RlessError(f"container {self.id} does not exist", exit_code=1)

    def remove(self) -> None:
        """Remove the directory."""
        try:
            for name in os.listdir(self.directory):
                if name == "notify":
                    _remove_notify(self.notify)
                else:
                    os.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass  # another `delete` was faster

    def state(self, wait: bool = False) -> State:
        """Return the answer of `state`: is it creating, created, running, paused or stopped?

        Args:
            wait: a moment for the end of `create`. Callers of crun, which has no status for it,
                take the first answer for the last.
        """
        deadline = time.monotonic() + _CREATION
        while wait and os.path.exists(self.fifo) and time.monotonic() < deadline:
            time.sleep(0.004)
        facts = self.read()
        if not facts["pid"]:
            status = "creating"
        elif not _alive(facts):
            status = "stopped"
        elif os.path.exists(self.created):
            status = "created"
        elif os.path.exists(self.fifo):
            status = "creating"
        else:
            status = "paused" if _frozen(facts.get("cgroup")) else "running"
        answer: State = {
            "ociVersion": _OCI_VERSION,
            "id": self.id,
            "status": status,
            "pid": 0 if status == "stopped" else facts["pid"],
            "bundle": facts["bundle"],
            "annotations": facts["annotations"],
        }
        if "created" in facts:
            answer["created"] = facts["created"]
        return answer

    def write_start_fifo(self, wait: bool = False) -> None:
        """Let init go on: one byte into the FIFO, which is removed.

        Args:
            wait: until the program runs.

        Raises:
            RlessError: it is not in the state `created`; or, with `wait`, what init has told.
        """
        if self.state(wait=True)["status"] != "created":
            raise RlessError(f"container {self.id} is not in the state created", exit_code=1)
        try:
            fd = os.open(self.created, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise RlessError(f"container {self.id}: init has ended", exit_code=1) from error
        try:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                raise RlessError(f"{self.created} is not a FIFO")
            os.unlink(self.created)
            os.write(fd, b"s")
            if wait:
                # Its reader is closed by execve, or by init's end: POLLERR, which none can mask.
                poll = select.poll()
                poll.register(fd, 0)
                poll.poll()
                self._raise_failure()
        finally:
            os.close(fd)

    def _raise_failure(self) -> None:
        from rootless.runtime import sync

        try:
            fd = os.open(self.failure, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            sync.expect_exec(fd)
        finally:
            os.close(fd)

    def not_running(self) -> RlessError:
        """Return the error of a signal to nobody."""
        # containerd looks for "container not running" in what a runtime says.
        return RlessError(f"cannot signal {self.id}: container not running", exit_code=1)

    def signal(self, number: int) -> None:
        """Signal the container's first process.

        Raises:
            RlessError: it is not running.
        """
        facts = self.read()
        if not facts["pid"] or facts["boot"] != paths.boot_id():
            raise self.not_running()
        try:
            pidfd = pidfd_open(facts["pid"])
        except SyscallError as error:
            raise self.not_running() from error
        try:
            if not _alive(facts):
                raise self.not_running()
            pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _frozen(cgroup: str | None) -> bool:
    if not cgroup:
        return False
    try:
        with open(f"{cgroup}/cgroup.events", "rb") as file:
            return b"frozen 1" in file.read()
    except OSError:
        return False  # before Linux 5.2, or it is gone


def _remove_notify(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


def _alive(facts: dict[str, Any]) -> bool:
    if not facts["pid"] or facts["boot"] != paths.boot_id():
        return False
    return is_running(facts["pid"], facts["start"])
